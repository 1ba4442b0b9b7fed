"""Where files of Gaussians are written: over themselves, links, folders, read-only files; and pairs of files."""

import json
import os
from pathlib import Path

import pytest
import torch
from format_scenes import Tensors, lopsided

from splatlearn.cli import main
from splatlearn.errors import SplatlearnError
from splatlearn.scene.formats import registry

SUFFIXES = (".ply", ".splat", ".spz", ".glb", ".gltf")


def means(path: Path) -> torch.Tensor:
    return registry.read(path).tensors["means"]


def close(found: torch.Tensor, scene: Tensors) -> bool:
    return found.shape == scene["means"].shape and torch.allclose(found.float(), scene["means"], atol=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_converted_onto_itself(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    registry.write(path, lopsided(0, 9))
    assert main(["convert", str(path), str(path)]) == 0
    assert close(means(path), lopsided(0, 9))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_file_to_write_is_refused(suffix: str, tmp_path: Path) -> None:
    scene = lopsided(0, 9)
    (folder := tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(SplatlearnError, match="could not be written"):
        registry.write(folder, scene)
    (tmp_path / f"null{suffix}").symlink_to("/dev/null")
    with pytest.raises(SplatlearnError, match="could not be written"):
        registry.write(tmp_path / f"null{suffix}", scene)
    with pytest.raises(SplatlearnError, match="could not be written"):
        registry.write(folder / "file" / f"a{suffix}" if (folder / "file").write_text("") else folder, scene)
    assert not list(folder.glob("*/*")) and not list(tmp_path.glob("*.bin")), "a part of a refused file is left"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_link_leads_to_the_file_that_is_replaced(suffix: str, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / f"target{suffix}"
    registry.write(target, lopsided(0, 4))
    link = tmp_path / f"link{suffix}"
    link.symlink_to(target)
    registry.write(link, lopsided(0, 9))
    assert link.is_symlink(), "the link itself is replaced"
    if suffix != ".gltf":  # its data stand beside the link
        assert close(means(target), lopsided(0, 9))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    registry.write(path, lopsided(0, 4))
    path.chmod(0o444)
    with pytest.raises(SplatlearnError, match="read-only"):
        registry.write(path, lopsided(0, 9))
    assert close(means(path), lopsided(0, 4))


@pytest.mark.parametrize("old", [False, True])
def test_a_gltf_and_its_data_are_the_old_pair_or_the_new(
    old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before each of the renames: the file can be read, and is of one scene."""

    class Killed(BaseException):
        pass

    path, replace, outcomes = tmp_path / "a.gltf", os.replace, []
    for allowed in range(9):
        for leftover in tmp_path.iterdir():
            leftover.unlink()
        if old:
            registry.write(path, lopsided(0, 4))
        left = allowed

        def killed(source: str, target: str) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        try:
            registry.write(path, lopsided(0, 9))
            done = True
        except Killed:
            done = False
        monkeypatch.setattr(os, "replace", replace)
        if path.exists():
            found = means(path)
            assert close(found, lopsided(0, 9)) or (old and not done and close(found, lopsided(0, 4)))
        else:
            assert not old and not done, "the old file is lost"
        outcomes.append(done)
        if done:
            break
    assert outcomes[-1] and len(outcomes) > 2, "no kill fell between the two files"
    assert json.loads(path.read_text())["buffers"][0]["uri"] == "a.bin"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.bin", "a.gltf"], "a part of a killed write is left"
