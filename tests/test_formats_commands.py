"""`splatlearn export` and `convert` as typed: out of a run, from one format into another, one sentence for mistakes."""

import re
from pathlib import Path

import pytest
import tiny_scene
import torch
from format_scenes import lopsided, pictures, worst_psnr

from splatlearn.cli import main
from splatlearn.scene.formats import registry

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = (".ply", ".splat", ".spz", ".gltf", ".glb", ".html")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a scene of degree 1 that was trained antialiased for a moment."""
    root = tmp_path_factory.mktemp("export")
    data, out = tiny_scene.write(root / "scene"), root / "run"
    words = ["train", str(ROOT / "configs/scene.yaml"), "--data.path", str(data), "--out", str(out), "--steps", "4"]
    assert main([*words, "--sh_degree", "1", "--antialiased", "true", "--data.background", "[1, 0.5, 0]"]) == 0
    return out


@pytest.fixture
def source(tmp_path: Path) -> Path:
    registry.write(tmp_path / "in.ply", lopsided(2), antialiased=True)
    return tmp_path / "in.ply"


def told(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence on stderr with which a command ends."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 1, f"{words} must fail"
    message = capsys.readouterr().err.strip()
    assert "\n" not in message and "Traceback" not in message and message, f"not one sentence: {message}"
    return message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_run_goes_out(run: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"out{suffix}"
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert "wrote 60 Gaussians" in capsys.readouterr().out
    if suffix == ".html":
        text = out.read_text(encoding="utf-8")
        assert '"antialiased": true' in text and '"background": [1.0, 0.5, 0.0]' in text, "it draws as was not trained"
        names = re.findall(r'"name": "(view_\d+\.png)"', text)
        assert len(names) == 9, "the photographs' views are not in the page"
        return
    there = registry.read(out)
    assert len(there.tensors["means"]) == 60
    if suffix in (".ply", ".spz"):
        assert there.antialiased is True, "viewers are not told of the antialiasing"


def test_what_a_run_leaves_says_how_it_was_trained(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert registry.read(run / "point_cloud.ply").antialiased is True, "viewers show it as it was not trained"
    words = ["train", str(ROOT / "configs/scene.yaml"), "--data.path", str(run.parent / "scene"), "--steps", "1"]
    start = ["--init", str(run / "point_cloud.ply"), "--sh_degree", "1"]
    for antialiased in ("true", "false"):
        out = tmp_path / antialiased
        assert main([*words, *start, "--antialiased", antialiased, "--out", str(out)]) == 0
        assert ("point_cloud.ply was trained antialiased" in capfd.readouterr().err) is (antialiased == "false")


def test_a_page_needs_no_photographs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = run.parent / "scene"
    moved.rename(run.parent / "elsewhere")
    try:
        assert main(["export", str(run), "--out", str(tmp_path / "a.html")]) == 0
        assert "a view of everything" in capsys.readouterr().out and '"everything"' in (tmp_path / "a.html").read_text()
        assert main(["export", str(run), "--out", str(tmp_path / "a.spz")]) == 0, (
            "a file of Gaussians needs them even less"
        )
    finally:
        (run.parent / "elsewhere").rename(moved)


def test_a_chain_of_conversions(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["in.ply", "b.glb", "c.gltf", "d.spz", "e.ply"]
    for before, after in zip(names, names[1:], strict=False):
        assert main(["convert", str(tmp_path / before), str(tmp_path / after)]) == 0
    seen = worst_psnr(pictures(lopsided(2)), pictures(registry.read(tmp_path / "e.ply").tensors))
    assert seen > 40, f"a chain of conversions keeps only {seen:.1f} dB"
    capsys.readouterr()
    assert main(["convert", str(source), str(tmp_path / "f.splat")]) == 0
    assert "up to degree 0 of 2" in capsys.readouterr().out, "the loss of view-dependent colour is not told"


def test_options_do_what_they_say(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert = ["convert", str(source)]
    assert main([*convert, str(tmp_path / "a.spz"), "--spz-version", "3"]) == 0
    assert (tmp_path / "a.spz").read_bytes()[:2] == b"\x1f\x8b", "not version 3"
    assert main([*convert, str(tmp_path / "b.spz")]) == 0
    assert (tmp_path / "b.spz").read_bytes()[:8] == b"NGSP\x04\0\0\0", "not version 4"
    assert main([*convert, str(tmp_path / "a.gltf")]) == 0 and (tmp_path / "a.bin").exists()
    assert main([*convert, str(tmp_path / "b.gltf"), "--embed"]) == 0 and not (tmp_path / "b.bin").exists()
    assert main([*convert, str(tmp_path / "c.ply"), "--sh-degree", "1"]) == 0
    assert registry.read(tmp_path / "c.ply").tensors["shN"].shape[1] == 3, "the degree is not lowered"
    assert main([*convert, str(tmp_path / "d.html"), "--limit", "40"]) == 0
    assert "wrote 40 Gaussians" in capsys.readouterr().out, "more are told of than are written"
    assert '"count": 40' in (tmp_path / "d.html").read_text(), "the limit is not kept"
    scene = registry.read(source).tensors
    content = source.read_bytes().replace(scene["means"][5].numpy().tobytes(), b"\xff" * 12)
    source.write_bytes(content)
    assert main([*convert, str(tmp_path / "e.ply")]) == 1 and not (tmp_path / "e.ply").exists()
    assert main([*convert, str(tmp_path / "e.ply"), "--drop-bad"]) == 0
    assert torch.equal(registry.read(tmp_path / "e.ply").tensors["means"][:5], scene["means"][:5])


def test_mistakes_are_one_sentence(
    run: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, word in (
        (("export", run, "--out", "a.obj"), ".html"),
        (("export", tmp_path / "nowhere", "--out", "a.ply"), "does not exist"),
        (("export", source), "--out is needed"),
        (("export", tmp_path, "--out", "a.ply"), "config.yaml"),
        (("convert", source, "a.xyz"), "a.xyz"),
        (("convert", source, "noname"), "noname"),
        (("convert", run, "a.ply"), "splatlearn export"),
        (("convert", tmp_path / "none.ply", "a.ply"), "not a file"),
        (("convert", source), "OUT"),
        (("convert", source, "a.spz", "--spz-version", "2"), "--spz-version"),
        (("convert", source, "a.ply", "--limit", "5"), "--limit"),
        (("convert", source, "a.html", "--limit", "0"), "--limit"),
        (("convert", source, "a.ply", "--sh-degree", "7"), "--sh-degree"),
        (("convert", ROOT / "README.md", "a.ply"), "README.md"),
    ):
        assert word in told(capsys, *words), f"{words} does not tell of {word}"
    (tmp_path / "a.spz").write_bytes(b"\x1f\x8b" + bytes(30))
    assert "a.spz" in told(capsys, "convert", "a.spz", "b.ply")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.spz", "in.ply"], "something is left behind"


def test_training_begins_from_a_small_file(run: Path, tmp_path: Path) -> None:
    """A .splat knows no view-dependent colour: there must be room to learn it."""
    assert main(["export", str(run), "--out", str(tmp_path / "start.splat")]) == 0
    words = ["train", str(ROOT / "configs/scene.yaml"), "--data.path", str(run.parent / "scene"), "--steps", "3"]
    out = tmp_path / "again"
    assert main([*words, "--out", str(out), "--sh_degree", "2", "--init", str(tmp_path / "start.splat")]) == 0
    assert registry.read(out / "point_cloud.ply").tensors["shN"].shape == (60, 8, 3), (
        "the degree asked for is not learned"
    )
