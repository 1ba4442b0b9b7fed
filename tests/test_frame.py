"""A scene of any size and at any place is learned alike, and all that leaves a run is in the frame of its capture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_scene
import torch
from tiny_scene import write

from splatlearn import checkpoint, config, loop, trainer
from splatlearn.cli import main
from splatlearn.errors import SplatlearnError
from splatlearn.scene.cameras import Camera
from splatlearn.scene.evaluate import evaluate
from splatlearn.scene.formats.registry import read
from splatlearn.scene.formats.registry import write as write_file
from splatlearn.scene.frame import Frame, frame_of_cameras, frame_of_means
from splatlearn.scene.gaussians import Gaussians
from splatlearn.scene.load import load_placed, load_splats
from splatlearn.scene.training.task import SceneTask

UTM, ECEF = (500000.0, 4600000.0, 300.0), (4.0e6, 6.0e5, 4.9e6)
FORMATS = ["ply", "splat", "spz", "glb", "gltf"]


def make(folder: Path, steps: int = 30, **more: Any) -> SceneTask:
    settings = {"data.path": folder, "steps": steps, "sh_degree": 1, "densify.start": 10, "densify.every": 5} | more
    return SceneTask(config.load(SceneTask.Config, None, [x for k, v in settings.items() for x in (f"--{k}", str(v))]))


def learned(folder: Path) -> SceneTask:
    task = make(folder)
    loop.fit(task, 30, progress=False)
    return task


@pytest.fixture(scope="module")
def utm_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("utm")
    write(root / "scene", shift=UTM)
    words = ["--data.path", str(root / "scene"), "--out", str(root / "run"), "--steps", "20", "--sh_degree", "1"]
    trainer.train(SceneTask, config.load(SceneTask.Config, None, words))
    return root / "run"


class TestFrame:
    def test_every_way_in_leads_out_again(self) -> None:
        frame = Frame(8.0, (512.0, -8.0, 4600000.0))
        points = np.random.default_rng(0).normal(size=(20, 3)) * 3 + frame.offset
        np.testing.assert_allclose(frame.capture_points(frame.normalised_points(points)), points, rtol=0, atol=1e-9)
        camera = Camera("a", 4, 4, np.eye(3), np.array([[0, 1, 0, 3], [0, 0, 1, -4], [1, 0, 0, 5], [0, 0, 0, 1.0]]))
        inside = frame.normalised_camera(camera)
        np.testing.assert_allclose(frame.capture_points(inside.center[None])[0], camera.center, atol=1e-9)
        np.testing.assert_allclose(frame.capture_camera(inside).world_to_camera, camera.world_to_camera, atol=1e-9)
        one, other = (x[:3, :3] @ p + x[:3, 3] for x, p in (
            (camera.world_to_camera, points[0]), (inside.world_to_camera, frame.normalised_points(points[:1])[0])
        ))  # fmt: skip
        np.testing.assert_allclose(one / 8, other, atol=1e-9, err_msg="a camera sees another point")
        assert Frame.of_record(json.loads(json.dumps(frame.record())), "x") == frame
        assert Frame.of_record(None, "x") == Frame(1.0, (0, 0, 0), 0.01), "runs of earlier versions have no frame"

    @pytest.mark.parametrize("bad", [
        [], {}, {"scale": 0, "offset": [0, 0, 0]}, {"scale": True, "offset": [0, 0, 0]}, {"scale": 1, "offset": [0, 0]},
        {"scale": float("nan"), "offset": [0, 0, 0]}, {"scale": 1, "offset": [0, 0, 1e200]},
        {"scale": 1, "offset": [0, 0, 0], "near": -1},
        {"scale": "1", "offset": "abc"}, {"scale": 10**400, "offset": [0] * 3},
    ])  # fmt: skip
    def test_a_forged_frame_is_refused(self, bad: Any) -> None:
        with pytest.raises(SplatlearnError, match="state must hold a frame"):
            Frame.of_record(bad, "state")

    def test_near_plane_and_unit_follow_the_capture(self) -> None:
        cameras, points = tiny_scene.cameras(), tiny_scene.gaussians().means.detach().double().numpy()
        plain = frame_of_cameras(cameras, points)
        for scale in (1e-6, 1 / 200, 3.0, 1e6):
            moved = Frame(scale, UTM)
            frame = frame_of_cameras([moved.capture_camera(c) for c in cameras], moved.capture_points(points))
            assert frame.near * frame.scale == pytest.approx(scale * plain.near * plain.scale, rel=1e-2)
            assert 0.5 < frame.scale / plain.scale / scale < 2.1 and np.log2(frame.scale) % 1 == 0
            assert np.abs(np.array(frame.offset) - UTM).max() <= 4 * frame.scale

    def test_frames_without_a_size(self) -> None:
        alone = [Camera("a", 4, 4, np.eye(3), np.eye(4))]
        assert frame_of_cameras(alone, np.zeros((0, 3))) == Frame()
        assert frame_of_means(np.zeros((0, 3))) == Frame() and frame_of_means(np.full((3, 3), 5.0)).scale == 1


class TestTraining:
    def test_a_power_of_two_and_its_multiples_change_no_bit(self, tmp_path: Path) -> None:
        plain = learned(write(tmp_path / "plain"))
        for name, scale, shift in (("small", 2.0**-9, (0, 0, 0)), ("far", 2.0**20, (2.0**25, -(2.0**24), 2.0**23))):
            other = learned(write(tmp_path / name, scale=scale, shift=shift))
            assert other.frame.scale == scale * plain.frame.scale
            for key, tensor in plain.gaussians.tensors().items():
                if name == "small":
                    assert torch.equal(tensor, other.gaussians.tensors()[key]), f"{name}: {key} differs"
            assert evaluate(other)["psnr"] == pytest.approx(evaluate(plain)["psnr"], abs=0.3)

    @pytest.mark.parametrize(("scale", "shift"), [(1e-3, (0, 0, 0)), (1 / 200, UTM), (1e6, (0, 0, 0)), (1.0, ECEF)])
    def test_any_size_and_place_is_learned_alike(self, tmp_path: Path, scale: float, shift: Any) -> None:
        plain, other = (
            learned(write(tmp_path / n, **more)) for n, more in (("a", {}), ("b", {"scale": scale, "shift": shift}))
        )
        assert len(plain.gaussians) > 60, "nothing was cloned or split"
        assert evaluate(other)["psnr"] == pytest.approx(evaluate(plain)["psnr"], abs=0.5)

    def test_a_run_goes_on_in_its_own_frame(self, tmp_path: Path) -> None:
        """That of its checkpoint, whatever the reader would choose today: none in a run of an earlier version."""
        folder = write(tmp_path / "scene", shift=(30, 0, 0))
        old = make(folder)
        old.scene.place(Frame())
        old._place(Frame())
        assert old.scene.train[0].center[0] > 25 and old.options["near_plane"] == 0.01
        tensors, state = old.state()
        del state["frame"]
        resumed = make(folder)
        assert resumed.frame.offset[0] > 25 and resumed.training_step.options["near_plane"] != 0.01
        resumed.load_state(tensors, state)
        assert resumed.frame == Frame() and resumed.training_step.options["near_plane"] == 0.01
        assert resumed.strategy.extent == resumed.scene.extent == old.scene.extent
        np.testing.assert_array_equal(resumed.scene.train[0].world_to_camera, old.scene.train[0].world_to_camera)

    def test_a_start_from_a_file_is_in_the_frame_of_the_capture(self, tmp_path: Path) -> None:
        truth = tiny_scene.gaussians().tensors()
        write_file(tmp_path / "start.ply", Frame(2.0, UTM).capture_tensors(truth))
        task = make(write(tmp_path / "scene", scale=2.0, shift=UTM), init=tmp_path / "start.ply")
        view = task.scene.train[0]
        with torch.no_grad():
            seen, photo = task.render(view).image, task.scene.photo(view).float() / 255
        assert (seen - photo).abs().mean() < 2e-3, "the file's Gaussians are elsewhere"

    def test_a_start_from_a_file_without_points_tells_the_depth(self, tmp_path: Path) -> None:
        """A single camera and no point of the model: the near plane must follow the file."""
        folder = write(tmp_path / "scene", count=1, scale=1e-4)
        (folder / "sparse" / "0" / "points3D.txt").unlink()
        write_file(tmp_path / "start.ply", Frame(1e-4).capture_tensors(tiny_scene.gaussians().tensors()))
        task = make(folder, init=tmp_path / "start.ply", **{"data.holdout": "none"})
        assert task.frame.scale < 1e-3 and task.options["near_plane"] * task.frame.scale < 1e-5
        with torch.no_grad():
            assert task.render(task.scene.train[0]).alpha.mean() > 0.1, "everything lies before the near plane"


class TestWaysOut:
    @pytest.mark.parametrize("suffix", FORMATS)
    def test_files_lead_back_to_utm(self, utm_run: Path, tmp_path: Path, suffix: str, capsys: Any) -> None:
        out = tmp_path / f"scene.{suffix}"
        assert main(["export", str(utm_run), "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        assert "are relative to (500000, 4600000, 300)" in printed, "the file is elsewhere without a word"
        wanted, got = load_splats(utm_run).tensors["means"], read(out).tensors["means"]
        assert got.dtype == torch.float64 and wanted.dtype == torch.float64
        order = torch.from_numpy(np.lexsort(wanted.numpy().round(3).T))
        assert len(got) == len(wanted)
        limit = 2e-4 if suffix == "spz" else 5e-7  # SPZ has 24 bits, in steps of 2^-12 or less
        assert (got - wanted)[order].abs().max() < limit, "positions are not those of the capture"
        self.assert_renders_alike(utm_run, out, 30 if suffix in ("spz", "splat") else 60)

    def assert_renders_alike(self, run: Path, file: Path, least: float) -> None:
        """The file, seen by the capture's cameras, against the run."""
        space = json.loads((run / "eval" / "space.json").read_text())
        row = space["cameras"][0]
        K = np.array([[row["focal"][0], 0, row["principal"][0]], [0, row["focal"][1], row["principal"][1]], [0, 0, 1]])
        camera = Camera("a", row["width"], row["height"], K, np.array(row["world_to_camera"]).reshape(4, 4))
        np.testing.assert_allclose(camera.center, UTM, atol=5, err_msg="the report's cameras are not the capture's")
        assert np.abs(np.array(space["points"])[:, :3] - UTM).max() < 5 and len(space["points"]) == 60
        pictures = []
        for source in (run, file):
            scene = load_placed(source)
            with torch.no_grad():
                pictures.append(scene.gaussians(scene.frame.normalised_camera(camera), sh_degree=0).image)
        error = (pictures[0] - pictures[1]).square().mean()
        assert pictures[0].std() > 0.05 and -10 * torch.log10(error + 1e-12) > least, "another picture"

    def test_a_stale_frame_beside_a_file_goes(self, utm_run: Path, tmp_path: Path) -> None:
        out = tmp_path / "a.splat"
        assert main(["export", str(utm_run), "--out", str(out)]) == 0 and (tmp_path / "a.splat.frame.json").exists()
        write_file(out, tiny_scene.gaussians().tensors())
        assert not (tmp_path / "a.splat.frame.json").exists() and read(out).tensors["means"].abs().max() < 5
        (tmp_path / "a.splat.frame.json").write_text('{"scale": 2}')
        with pytest.raises(SplatlearnError, match=r"a\.splat\.frame\.json does not say where a\.splat lies"):
            read(out)

    def test_a_float32_scene_is_written_as_before(self, tmp_path: Path) -> None:
        tensors = tiny_scene.gaussians().tensors()
        assert write_file(tmp_path / "a.ply", tensors) == Frame()
        wide = {**tensors, "means": tensors["means"].double() + 1e-9}
        assert write_file(tmp_path / "b.ply", wide) == Frame(), "what float32 holds to a millionth needs no offset"
        assert (tmp_path / "a.ply").read_bytes().count(b"SplatOffset") == 0

    def test_doubles_of_other_writers_are_kept(self, tmp_path: Path) -> None:
        write_file(tmp_path / "a.ply", tiny_scene.gaussians().tensors())
        head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
        for axis in b"xyz":
            head = head.replace(b"float %c\n" % axis, b"double %c\n" % axis)
        rows = np.frombuffer(body, "<f4").reshape(60, -1)
        places = rows[:, :3].astype(np.float64) + UTM
        packed = b"".join(p.tobytes() + row.tobytes() for p, row in zip(places, rows[:, 3:], strict=True))
        (tmp_path / "b.ply").write_bytes(head + b"end_header\n" + packed)
        np.testing.assert_array_equal(read(tmp_path / "b.ply").tensors["means"].numpy(), places)

    @pytest.mark.parametrize("words", ["SplatOffset: 1 2", "SplatOffset: 1 2 nan", "SplatOffset: a b c"])
    def test_a_damaged_offset_is_refused(self, tmp_path: Path, words: str) -> None:
        write_file(tmp_path / "a.ply", tiny_scene.gaussians().tensors())
        text = (tmp_path / "a.ply").read_bytes().replace(b"element vertex", f"comment {words}\nelement vertex".encode())
        (tmp_path / "a.ply").write_bytes(text)
        with pytest.raises(SplatlearnError, match="SplatOffset that is not three finite numbers"):
            read(tmp_path / "a.ply")

    def test_camera_paths_are_in_the_frame_of_the_capture(self, utm_run: Path, tmp_path: Path) -> None:
        from splatlearn.commands.render import path_cameras
        from splatlearn.run import open_run
        from splatlearn.scene.keyframes import Keyframe, KeyframePath, rotation_of, write_path

        task, _ = open_run(utm_run)
        view = task.scene.train[0]
        place = task.frame.capture_points(view.center[None])[0]
        assert abs(place - UTM).max() < 5
        write_path(tmp_path / "p.json", KeyframePath(50, 37, 5.0, (Keyframe(0.0, place, rotation_of(view), 50.0),)))
        (camera,), _ = path_cameras(task, str(tmp_path / "p.json"), None)
        np.testing.assert_allclose(camera.center, view.center, atol=1e-8, err_msg="the path leads elsewhere")

    def test_depth_is_in_lengths_of_the_capture(self, tmp_path: Path) -> None:
        from splatlearn.commands.render import _depth

        depths = []
        for scale in (1.0, 64.0):
            task = make(write(tmp_path / str(scale), scale=scale))
            depths.append(_depth(task, task.scene.train[0]))
        np.testing.assert_allclose(64 * depths[0], depths[1], rtol=1e-5)
        assert 2 < np.median(depths[0][depths[0] > 0]) < 5

    def test_a_page_is_normalised_and_says_so(self) -> None:
        from splatlearn.show.scene_page import scene_html

        moved = Frame(1 / 200, UTM)
        tensors = moved.capture_tensors(tiny_scene.gaussians().tensors())
        page = scene_html(tensors, [moved.capture_camera(camera) for camera in tiny_scene.cameras()])
        told = json.loads(page.split('id="told"')[1].split(">", 1)[1].split("</script>")[0])
        assert np.abs(told["frame"]["offset"] - np.array(UTM)).max() < 0.1 and told["frame"]["scale"] == 2.0**-6
        assert told["blend"]["near_plane"] == told["frame"]["near"] and max(map(abs, told["low"])) < 4
        assert 0.5 < np.linalg.norm(told["views"][0]["eye"]) < 2, "a view is not in the page's frame"


class TestSpz:
    def test_far_float32_positions_are_moved(self, tmp_path: Path) -> None:
        """Fixed point of 24 bits has steps of a whole unit there."""
        tensors = tiny_scene.gaussians().tensors()
        tensors["means"] = tensors["means"] + torch.tensor([0.0, 4.6e6, 0.0])
        assert write_file(tmp_path / "a.spz", tensors).moves
        assert (read(tmp_path / "a.spz").tensors["means"] - tensors["means"]).abs().max() < 1e-3

    @pytest.mark.parametrize("scale", [1e-4, 1e6])
    def test_sizes_that_a_byte_cannot_hold(self, tmp_path: Path, scale: float) -> None:
        tensors = Frame(scale).capture_tensors(tiny_scene.gaussians().tensors())
        write_file(tmp_path / "a.spz", tensors)
        got = read(tmp_path / "a.spz").tensors
        assert (got["scales"] - tensors["scales"]).abs().max() < 0.04, "sizes are clipped"
        assert (got["means"] - tensors["means"]).abs().max() < 1e-3 * scale

    def test_a_stray_does_not_round_the_others(self, tmp_path: Path, capsys: Any) -> None:
        tensors = tiny_scene.gaussians().tensors()
        tensors["means"][7] = torch.tensor([1e6, 0.0, 0.0])
        write_file(tmp_path / "a.spz", tensors)
        got = read(tmp_path / "a.spz").tensors["means"]
        others = torch.arange(60) != 7
        assert (got - tensors["means"])[others].abs().max() < 2e-3 and got[7, 0] > 5000
        assert "1 of 60 Gaussians lie more than 8,000 times" in capsys.readouterr().err


def test_gaussians_of_a_run_of_an_earlier_version(utm_run: Path, tmp_path: Path) -> None:
    """Its checkpoint has no frame: its means are in the capture's."""
    import shutil

    run = tmp_path / "run"
    shutil.copytree(utm_run, run)
    saved = checkpoint.latest(run / "checkpoints")
    assert saved is not None
    tensors, state = checkpoint.load(saved)
    assert state.pop("frame")["offset"] == list(UTM)
    checkpoint.save(run / "checkpoints", 20, tensors, state)
    assert torch.equal(load_splats(run).tensors["means"], tensors["means"]) and load_placed(run).frame == Frame()
    assert len(Gaussians(tensors)) == 60
