"""The benchmark: its counts against brute force, its work, its peers, its table, and bad arguments."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import tiny_scene
import torch
from conftest import BACKENDS
from tape import Tape

from splatlearn.bench import contenders, determinism, goals, inputs, pairs, peaks, scaling, table, work
from splatlearn.bench.clock import timed_stages
from splatlearn.bench.command_peer import CommandPeer
from splatlearn.bench.race import largest_difference, race
from splatlearn.cli import main
from splatlearn.ops import capacity as capacities
from splatlearn.ops import native, reference
from splatlearn.scene.readers.colmap import ColmapScene
from splatlearn.scene.view import View

SMALL = ["bench", "--count", "400", "--size", "90x60", "--steps", "2"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def quick_peaks() -> Any:
    """The machine's peaks by one try each: what they are decides nothing here."""
    patched = pytest.MonkeyPatch()
    patched.setattr(peaks, "measured", lambda device: peaks.Peaks(100.0, 30.0))
    yield
    patched.undo()


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence of a command that fails."""
    assert main(list(words)) == 1, "no error was found"
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "Traceback" not in error, error
    return error


# ---- counts ----


def opaque(count: int = 60, opacity: float = 4.0) -> inputs.Inputs:
    """Gaussians that hide each other, so that pixels stop."""
    model = tiny_scene.gaussians(count)
    with torch.no_grad():
        model.opacities.fill_(opacity)
    camera = tiny_scene.cameras()[0]
    image = torch.zeros(camera.height, camera.width, 3, dtype=torch.uint8)
    return inputs.Inputs(model, [View(camera, {"image": image})])


def drawn_by_brute_force(given: inputs.Inputs) -> int:
    """Pairs with a weight, by the reference that knows no tiles."""
    g, camera = given.gaussians, given.views[0].camera
    pose, K = (torch.from_numpy(array).float()[None] for array in (camera.world_to_camera, camera.K))
    with torch.no_grad():
        p = reference.project(
            g.means, g.quats, g.scales.exp(), g.opacities.sigmoid(), None, None, pose, K, camera.width, camera.height
        )
        order = torch.argsort(p.depths[0], stable=True)
        pixels = reference.pixel_centres(camera.width, camera.height, torch.float32)
        blended = reference.blend(p.means2d[0, order], p.conics[0, order], p.opacities[0, order], pixels)
    return int((blended.weights > 0).sum())


@pytest.mark.parametrize("kind", [name for name in BACKENDS if name != "cuda"])
def test_pairs_are_those_of_brute_force(kind: str, request: pytest.FixtureRequest) -> None:
    given = opaque()
    if kind == "emulated":
        with native.emulated(request.getfixturevalue("emulated_library")):
            counts = pairs.count(given.gaussians, given.views[0])
    else:
        counts = pairs.count(given.gaussians, given.views[0])
    wanted = drawn_by_brute_force(given)
    assert wanted > 10_000, "the scene shows too little to prove anything"
    assert abs(counts.contributed - wanted) <= 3, "pairs are missed or counted twice"  # rounding at the cut-off
    for evaluated in (counts.evaluated_forward, counts.evaluated_backward):
        assert counts.contributed < evaluated < counts.listed, "a pair that drew was not evaluated, or all were"
    assert counts.listed == 256 * counts.instances


def test_pixels_that_stopped_evaluate_nothing_more() -> None:
    clear, dense = (pairs.count(given.gaussians, given.views[0]) for given in (opaque(60, -2.0), opaque(60, 6.0)))
    assert clear.evaluated_forward == clear.evaluated_backward, "no pixel stops in a clear scene"
    assert dense.evaluated_forward < 0.9 * dense.listed, "stops are not looked at"
    hidden = opaque(400, 6.0)
    counts = pairs.count(hidden.gaussians, hidden.views[0])
    assert counts.evaluated_forward != counts.evaluated_backward, "forward looks at stops every 64 splats"


def test_blocks_that_the_ellipse_reaches_are_counted() -> None:
    """One round Gaussian of known radius at a known place: 16 pixels for each 4x4 block with a centre near enough."""
    given = opaque(1)
    camera = given.views[0].camera
    with torch.no_grad():
        given.gaussians.means.copy_(torch.tensor([[0.0, 0.0, 0.0]]))
        given.gaussians.scales.fill_(-4.0)
    with torch.no_grad():
        p, tiles, _ = pairs._lists_and_stops(given.gaussians, given.views[0])
    x, y = p.means2d[0, 0].tolist()
    variance = 1 / p.conics[0, 0, 0]
    radius = float((2 * variance * torch.log(p.opacities[0, 0] * 255)).sqrt())
    reached = 0
    for top in range(0, camera.height, 4):
        for left in range(0, camera.width, 4):
            right, bottom = min(left + 4, camera.width) - 0.5, min(top + 4, camera.height) - 0.5
            dx, dy = x - min(max(x, left + 0.5), right), y - min(max(y, top + 0.5), bottom)
            reached += dx * dx + dy * dy <= radius * radius
    counts = pairs.count(given.gaussians, given.views[0])
    assert counts.instances == tiles.gaussian_ids.numel() > 0 and reached > 1
    assert counts.evaluated_forward == 16 * reached, "blocks beyond the ellipse count, or blocks of it do not"


# ---- work ----


def test_work_grows_with_what_it_is_of() -> None:
    given = opaque()
    counts = pairs.count(given.gaussians, given.views[0])
    works = work.of_stages(given.gaussians, given.views[0].camera, counts, "cpu")
    more = counts._replace(contributed=counts.contributed + 1000)
    again = work.of_stages(given.gaussians, given.views[0].camera, more, "cpu")
    assert again["rasterize forward"].flops - works["rasterize forward"].flops == 21_000, "21 operations a drawn pair"
    assert again["rasterize backward"].flops - works["rasterize backward"].flops == 43_000, "43 operations a drawn pair"
    parameters = sum(t.numel() for t in given.gaussians.tensors().values())
    assert works["adam"].bytes == 28 * parameters, "adam reads four tensors and writes three"
    separate = works["project backward"].bytes + works["adam"].bytes
    assert works["project update"].bytes == separate - 12 * parameters, "a gradient is written or read in one pass"
    assert all(one.flops > 0 for name, one in works.items() if not name.startswith("bin"))


def test_the_nearer_roofline_counts() -> None:
    machine = peaks.Peaks(gflops=100.0, gigabytes=10.0)
    assert work.Work(flops=1e9, bytes=1e6).least_ms(machine) == pytest.approx(10.0), "bound by arithmetic"
    assert work.Work(flops=1e6, bytes=1e9).least_ms(machine) == pytest.approx(100.0), "bound by memory"


def test_peaks_are_rates() -> None:
    assert 0.1 < peaks.matmul_gflops(CPU) < 1e6 and 0.1 < peaks.register_gflops(1000) < 1e6
    assert 0.1 < peaks.copied_gigabytes_per_second(CPU) < 1e4


def test_every_stage_of_a_step_is_timed_and_known(backend: str) -> None:
    if backend == "cuda":
        pytest.skip("the step below is on the CPU")
    given = opaque()
    with timed_stages() as clock:
        contenders.ours(given).step(0)
    names = set(clock.seconds())
    counts = pairs.count(given.gaussians, given.views[0])
    known = set(work.of_stages(given.gaussians, given.views[0].camera, counts, "cpu"))
    assert names <= known, "a stage has no work, so that its roofline is missing"
    assert len(names) == 7, "a stage of the step is not timed"
    assert all(wall >= 0 and cpu >= 0 for wall, cpu in clock.seconds().values())


def test_the_price_of_determinism(backend: str) -> None:
    if backend == "cuda":
        pytest.skip("the scene below is on the CPU")
    price = determinism.price_of_determinism(opaque(), 2)
    if backend == "cpu":
        assert "one backward" in price["note"]
    else:
        assert price["deterministic_ms"] > 0 and price["atomic_ms"] > 0
        for text in ("price of determinism", "with atomics"):
            assert text in table._determinism({"determinism": price})[0]


def test_both_kinds_of_backward_are_timed(monkeypatch: pytest.MonkeyPatch, emulated_library: Path) -> None:
    kinds = []
    real = native.call

    def call(stage: str, params: Any, tensor: torch.Tensor) -> None:
        kinds.extend([params.atomic] if stage == "rasterize_backward" else [])
        real(stage, params, tensor)

    monkeypatch.setattr(native, "call", call)
    with native.emulated(emulated_library):
        determinism.price_of_determinism(opaque(), 1)
    assert kinds == [0, 1] * 3, "the atomic variant is not what is timed, or not in alternation"


# ---- inputs ----


def test_synthetic_scenes_cover_the_picture_alike() -> None:
    covered = [
        float(given.gaussians(given.views[0].camera).alpha.mean().detach())
        for given in (inputs.synthetic(count, 96, 64) for count in (1000, 10_000))
    ]
    assert 0.2 < covered[0] < 1 and covered[1] == pytest.approx(covered[0], abs=0.1), "another number, another scene"


def test_a_synthetic_scene_is_written_as_a_colmap_folder(tmp_path: Path) -> None:
    given = inputs.synthetic(50, 40, 30)
    scene = ColmapScene(ColmapScene.Config(path=str(inputs.write_colmap(given, tmp_path / "data")), holdout="none"))
    camera, photo = given.views[0].camera, given.views[0].image
    assert len(scene.train) == 1 and torch.equal(scene.photo(scene.train[0]), photo), "another photograph"
    read = scene.frame.capture_camera(scene.train[0])
    assert abs(read.world_to_camera - camera.world_to_camera).max() < 1e-9, "another pose"
    assert abs(scene.frame.capture_points(scene.points) - given.gaussians.means.detach().numpy()).max() < 1e-5, (
        "other points"
    )


# ---- peers ----


def test_contenders_take_turns() -> None:
    given = inputs.synthetic(50, 40, 30)
    order: list[str] = []
    entrants = [contenders.Contender(name, lambda index, name=name: order.append(name)) for name in "ab"]  # type: ignore[misc]
    result = race(entrants, given, 3)
    assert order[:6] == ["a", "b"] * 3, "one contender has the machine for itself for a while"
    assert order[16:] == ["a"] * 3 + ["b"] * 3 + ["a"] * 3 + ["b"] * 3 + ["a"] * 3 + ["b"] * 3, (
        "blocks do not alternate"
    )
    assert set(result) == {"a", "b"} and result["a"]["step_ms"] >= 0


def fake_gsplat() -> types.ModuleType:
    """A module with gsplat's function, which ours has the signature of."""
    import splatlearn

    module = types.ModuleType("gsplat")
    module.rasterization = splatlearn.rasterization  # type: ignore[attr-defined]
    module.__version__ = "1.5.3"  # type: ignore[attr-defined]
    return module


def test_gsplat_runs_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """No card here: a stand-in with its signature proves that the call fits, and that the pictures are compared."""
    monkeypatch.setitem(sys.modules, "gsplat", fake_gsplat())
    given = inputs.synthetic(200, 48, 32)
    one, other = contenders.ours(given), contenders.gsplat(given)
    assert other.name == "gsplat 1.5.3" and (largest_difference(one, other) or 0) < 1e-5, "another scene is drawn"
    result = race([one, other], given, 2)
    for parts in result.values():
        assert {"forward_ms", "loss_and_backward_ms", "update_ms", "step_ms", "queued_step_ms"} <= set(parts)


PEER = """
import torch

def whole(inputs):
    assert inputs.views[0].image.dtype == torch.uint8
    return lambda index: inputs.views[index]

def parts(inputs):
    leaf = torch.zeros((), requires_grad=True)
    height, width, _ = inputs.views[0].image.shape
    return lambda index: leaf.expand(height, width, 3), lambda: setattr(leaf, "grad", None)

def nothing(inputs):
    return 3
"""


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of peers in the working folder."""
    monkeypatch.chdir(tmp_path)
    name = f"peer_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(PEER)
    return name


def test_python_peers_are_timed(peer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--peer", f"{peer}:whole", "--peer", f"{peer}:parts", "--json", str(tmp_path / "b.json")]
    assert main([*SMALL, *words]) == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "b.json").read_text())["alternation"]
    assert set(result) == {"splatlearn", f"{peer}:whole", f"{peer}:parts"}
    assert "forward_ms" in result[f"{peer}:parts"] and "forward_ms" not in result[f"{peer}:whole"]
    assert "largest_difference_of_pictures" in result[f"{peer}:parts"], "nobody sees whether the work was the same"
    assert "times" in capsys.readouterr().out


def test_our_steps_are_those_of_training(monkeypatch: pytest.MonkeyPatch, emulated_library: Path) -> None:
    """In a room; a step that lacked it is made again, for else it would be quick for having drawn nothing."""
    monkeypatch.setattr(capacities, "_capacities", {})
    given, drawn = opaque(), []
    real = given.gaussians.forward
    monkeypatch.setattr(given.gaussians, "forward", lambda camera, **how: drawn.append(camera) or real(camera, **how))
    with native.emulated(emulated_library):
        step = contenders.ours(given).step
        step(0)
        capacities._capacities.update(dict.fromkeys(capacities._capacities, capacities.ListSize(10, 10)))
        for _ in range(3):
            step(0)
    assert len(drawn) == 5, "a step without room is not made again, or is waited for"


def test_python_peers_get_a_copy(peer: str) -> None:
    given = inputs.synthetic(50, 40, 30)
    seen: list[Any] = []
    module = types.ModuleType("peer_that_writes")
    module.make = lambda it: seen.append(it) or (lambda index: None)  # type: ignore[attr-defined]
    sys.modules["peer_that_writes"] = module
    contenders.from_callable("peer_that_writes:make", given)
    with torch.no_grad():
        seen[0].gaussians.means.zero_()
    assert given.gaussians.means.abs().max() > 0, "a peer that trains changes our scene"


def test_programs_are_timed(tmp_path: Path) -> None:
    given = inputs.synthetic(50, 40, 30)
    telling = CommandPeer(f"{sys.executable} -c \"print('hi'); print('{{\\\"step_ms\\\": 12.5}}')\"", given, 3)
    assert telling.step_ms() == 12.5, "what a program tells of itself is not taken"
    log = tmp_path / "log"
    script = tmp_path / "program.py"
    script.write_text("import sys, pathlib\npathlib.Path(sys.argv[1]).open('a').write(' '.join(sys.argv[2:]) + '\\n')")
    program = CommandPeer(f"{sys.executable} {script} {log} {{data}} {{steps}} {{gaussians}} {{width}}", given, 3)
    assert program.step_ms() >= 0
    runs = [line.split() for line in log.read_text().splitlines()]
    assert [run[1] for run in runs] == ["3", "6"], "the time to begin and end is not taken off by a longer run"
    data, gaussians = Path(runs[0][0]), Path(runs[0][2])
    assert (data / "sparse/0/cameras.txt").is_file() and gaussians.is_file() and runs[0][3] == "40"
    program.close()
    assert not data.exists(), "what was written for the program stays"


def test_replayed_steps_learn_as_ours_do(monkeypatch: pytest.MonkeyPatch, emulated_library: Path) -> None:
    """On a tape in place of a card; a step that lacked room is made again."""
    monkeypatch.setattr(capacities, "_capacities", {})
    monkeypatch.setattr(contenders, "RATE", 1e-2)
    models = [opaque(), opaque()]
    with native.emulated(emulated_library):
        one = contenders.ours(models[0])
        learner = contenders.Learner(models[1], Tape())
        training_step = learner.training_step
        assert training_step.replays is not None
        for number in range(6):
            one.step(0)
            if number == 3:
                assert training_step.capacity.resolve()
                capacities._capacities.update(dict.fromkeys(capacities._capacities, capacities.ListSize(10, 10)))
                training_step.replays.invalidate()
            learner.step(0)
        assert one.forward is not None
        one.forward(0)  # settles
        learner.step(0)
        one.step(0)
    assert training_step.replays.made == 3, "a recording with too little room is used again, or there are too many"
    for name, tensor in models[0].gaussians.tensors().items():
        assert torch.equal(tensor, models[1].gaussians.tensors()[name]), f"replayed steps learn another {name}"


def test_frames_are_drawn_without_gradients(emulated_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacities, "_capacities", {})
    given, graded = opaque(), []
    real = given.gaussians.forward
    note = lambda camera: graded.append(torch.is_grad_enabled()) or real(camera)  # noqa: E731
    monkeypatch.setattr(given.gaussians, "forward", note)
    with native.emulated(emulated_library):
        frame = contenders.ours(given).frame
        assert frame is not None
        frame(0)
        capacities._capacities.update(dict.fromkeys(capacities._capacities, capacities.ListSize(10, 10)))
        frame(0)
        frame(0)
    assert graded == [False] * 4, "a frame keeps gradients, or one that lacked room is not drawn again"


# ---- the goals ----


def card_figures() -> dict[str, Any]:
    """What a card might tell, met and missed."""
    entrants = {
        "splatlearn": {"queued_step_ms": 4.0, "frame_ms": 0.5},
        "splatlearn, replayed": {"queued_step_ms": 3.5},
        "gsplat 1.5.3": {"queued_step_ms": 15.0, "frame_ms": 2.0},
    }
    stages = {"rasterize forward": {"ms": 1.0, "gflops": 30.0, "roofline": 0.6}}
    stages["rasterize backward"] = {"ms": 2.0, "gflops": 15.0, "roofline": 0.3}
    million = {
        "card": "a card", "num_gaussians": 10**6, "resolution": [1920, 1080], "alternation": entrants,
        "stages": stages, "peaks": {"gflops": 50.0, "gigabytes_per_second": 1.0},
        "stages_ms": {name: stage["ms"] for name, stage in stages.items()},
        "determinism": {"deterministic_ms": 2.0, "atomic_ms": 1.9},
        "footprint_bytes": {"splatlearn": 2 << 30, "gsplat 1.5.3": 5 << 30},
    }  # fmt: skip
    points = [
        {"kind": kind, "count": 10 ** (5 + i), "size": [1000, 500 << i], "step_ms": ms * 10 ** (power * i)}
        for kind, ms, power in (("gaussians", 1.0, 1.0), ("pixels", 1.0, 1.5))
        for i in range(3)
    ]
    run = {"psnr": 30.0, "ssim": 0.9, "device": "cuda", "wall_seconds": 9.0, "steps": 3000}
    return {
        "bench_1000000_1920x1080": million, "scaling": {"points": points, "left_out": [], "device": "cuda"},
        "train_fox": run, "reference_fox": run | {"psnr": 29.9},
    }  # fmt: skip


def test_goals_are_judged_by_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, part in card_figures().items():
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    (tmp_path / "card.txt").write_text("NVIDIA H200, 580\n")
    assert main(["bench", "--collect", str(tmp_path)]) == 0, capsys.readouterr().err
    told = json.loads((tmp_path / "goals.json").read_text())
    found = [(row["met"], row["ratio"] and round(row["ratio"], 2)) for row in told["goals"]]
    assert found == [
        (True, 4.29), (None, None), (True, None), (False, None), (True, None), (True, 4.0), (True, 2.5),
        (True, None), (None, None), (True, None), (False, None),
    ]  # fmt: skip
    text, log = (tmp_path / "goals.md").read_text(), (tmp_path / "log.md").read_text()
    assert text.count("not measured here") == 2 and "4.29" in text and "exponent 5." not in text
    assert (
        "NVIDIA H200, 580" in log and "rasterize forward 1.000 ms (60% of its roofline)" in log and text.strip() in log
    )
    assert "2,000" in text, "a frame of 0.5 ms is not told as 2,000 a second"


def test_a_folder_without_results_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no results" in told(capsys, "bench", "--collect", str(tmp_path))
    assert "must name a folder" in told(capsys, "bench", "--collect", str(tmp_path / "nowhere"))
    (tmp_path / "bench_fox.json").write_text("{")
    assert "bench_fox.json is no JSON" in told(capsys, "bench", "--collect", str(tmp_path))


def test_a_cpu_meets_no_goal_of_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--json", str(tmp_path / "b.json")]) == 0
    assert "Goals" not in capsys.readouterr().out, "a table of what a CPU cannot measure tells nobody anything"
    result = json.loads((tmp_path / "b.json").read_text())
    assert {row["measured"] for row in result["goals"]} == {goals.NOT_MEASURED}, "figures of a CPU are told as a card's"
    assert result["alternation"]["splatlearn"]["frame_ms"] > 0


# ---- the command ----


def test_the_json_says_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    program = f'{sys.executable} -c "print(\'{{\\"step_ms\\": 12.5}}\')"'
    words = ["--threads", "1,2", "--json", str(tmp_path / "b.json"), "--peer", program, "--peer-ms", "1000"]
    assert main([*SMALL, *words]) == 0, capsys.readouterr().err
    assert torch.get_num_threads() == before, "the number of threads is left changed"
    result = json.loads((tmp_path / "b.json").read_text())
    assert result["step_ms"] > 0 and result["num_gaussians"] == 400 and result["resolution"] == [90, 60]
    assert set(result["threads_ms"]) == {"1", "2"} and result["threads"] == 2
    assert next(iter(result["peers"].values()))["step_ms"] == 12.5
    for name in (
        "project forward",
        "rasterize forward",
        "photometric",
        "rasterize backward",
        "project update",
    ):
        stage = result["stages"][name]
        assert stage["gflops"] == pytest.approx(stage["flops"] / stage["ms"] / 1e6), f"{name}: wrong rate"
        assert stage["roofline"] == pytest.approx(stage["least_ms"] / stage["ms"]), f"{name}: wrong ratio"
    assert result["pairs"]["contributed"] <= result["pairs"]["evaluated_forward"] <= result["pairs"]["listed"]
    out = capsys.readouterr().out
    for text in (
        "GFLOP/s",
        "GB/s",
        "price of determinism",
        "ms by threads",
        "evaluated forward",
        "times our",
        "peak memory",
    ):
        assert text in out, f"the table lacks {text!r}"


def test_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scaling, "COUNTS", (100, 1000, 10**9))
    monkeypatch.setattr(scaling, "SIZES", ((64, 48), (96, 64)))
    monkeypatch.setattr(scaling, "FULL_HD", (96, 64))
    monkeypatch.setattr(scaling, "COUNT", 300)
    words = ["bench", "--scaling", "--json", str(tmp_path / "s.json"), "--plot", str(tmp_path / "s.png")]
    assert main(words) == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "s.json").read_text())
    assert [point["count"] for point in result["points"] if point["kind"] == "gaussians"] == [100, 1000]
    assert [point["size"] for point in result["points"] if point["kind"] == "pixels"] == [[64, 48], [96, 64]]
    (left_out,) = result["left_out"]
    assert "1,000,000,000 Gaussians" in left_out and "bytes" in left_out, "what memory does not allow is not told"
    out = capsys.readouterr().out
    assert (
        "left out" in out
        and "ns a pair" in out
        and "ns an instance" in out
        and (tmp_path / "s.png").stat().st_size > 10_000
    )


def test_prices_of_pairs_and_instances_are_found_again() -> None:
    def point(evaluated: int, instances: int, off: float) -> dict[str, Any]:
        milliseconds = off * (2e-6 * evaluated + 5e-5 * instances)
        stages = {"rasterize forward": milliseconds / 4, "rasterize backward": milliseconds * 3 / 4, "photometric": 9.0}
        return {"evaluated": evaluated, "instances": instances, "stages_ms": stages}

    work = [(10**6, 10**4), (10**7, 3 * 10**4), (2 * 10**6, 10**6)]
    exact = scaling._prices([point(*each, off=1.0) for each in work])
    assert exact == pytest.approx({"pair_ns": 2.0, "instance_ns": 50.0, "largest_error": 0.0}, abs=1e-6)
    off = scaling._prices([point(*each, off=1.0 + 0.2 * i) for i, each in enumerate(work)])
    assert off["largest_error"] > 0.05, "times that no two prices explain pass as linear"


def test_scaling_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "COUNTS", (100, 10_000_000))
    monkeypatch.setattr(scaling, "SIZES", ((64, 48),))
    monkeypatch.setattr(scaling, "FULL_HD", (96, 64))
    monkeypatch.setattr(scaling, "COUNT", 100)
    monkeypatch.setattr(scaling, "_available", lambda device: 1 << 50)
    result = scaling.scaling(CPU, 5.0)
    assert [point["count"] for point in result["points"]] == [100, 100]
    assert "10,000,000" in result["left_out"][0] and "s that are left" in result["left_out"][0]


BAD: dict[str, tuple[list[str], str]] = {
    "no step": (["--steps", "0"], "--steps must be at least 1"),
    "a word for steps": (["--steps", "many"], "--steps"),
    "no thread": (["--threads", "1,0"], "--threads must be numbers from 1"),
    "a word for threads": (["--threads", "all"], "--threads"),
    "no Gaussian": (["--count", "0"], "--count must be from 1"),
    "too many Gaussians": (["--count", "999999999999"], "--count must be from 1"),
    "one side": (["--size", "640"], "--size must be WIDTHxHEIGHT"),
    "no pixel": (["--size", "0x480"], "--size"),
    "three sides": (["--size", "6x4x8"], "--size"),
    "a huge picture": (["--size", "999999x999999"], "--size"),
    "no card": (["--gsplat"], "--gsplat needs --device cuda"),
    "a wrong device": (["--device", "gpu"], "device must be"),
    "no folder": (["--data", "nowhere"], "nowhere"),
    "Gaussians of nothing": (["--gaussians", "scene.ply"], "--gaussians needs --data"),
    "two scenes": (["--data", "nowhere", "--count", "5"], "do not go with --data"),
    "two benchmarks": (["--scaling", "--count", "5"], "does not go with --count"),
    "no time": (["--scaling", "--budget", "0"], "--budget must be above 0"),
    "a strange plot": (["--scaling", "--plot", "plot.gif"], "--plot must end in"),
    "a peer of no time": (["--peer-ms", "-3"], "--peer-ms must be above 0"),
    "a missing program": (["--peer", "no_such_program_here --x"], "cannot be run"),
    "a failing program": (["--peer", "false"], "ended with status 1"),
    "an open quote": (["--peer", "echo 'x"], "is no command line"),
    "an empty peer": (["--peer", ""], "got an empty one"),
    "a missing module": (["--peer", "no_such_module_here:f"], "cannot be imported"),
    "a missing function": (["--peer", "json:no_such_function"], "cannot be imported"),
    "an unknown option": (["--frobnicate"], "--frobnicate"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, expected = BAD[name]
    small = [] if "--count" in words or "--data" in words or "--scaling" in words else ["--count", "20"]
    small += [] if "--size" in words or "--data" in words or "--scaling" in words else ["--size", "32x32"]
    assert expected in told(capsys, "bench", *small, *words)
    assert list(tmp_path.iterdir()) == [], "something was left behind"


def test_a_peer_that_returns_nonsense(peer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "returned a int" in told(capsys, *SMALL, "--peer", f"{peer}:nothing")
