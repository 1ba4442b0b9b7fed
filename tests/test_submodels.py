"""Of several models in sparse/ the largest is taken, with a warning; photographs without a pose are named."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colmap_samples import SampleImage, load, names, write_scene

from splatlearn import notices
from splatlearn.errors import SplatlearnError

COUNTS = {"0": 3, "1": 5, "2": 4}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, None]:
    """The warnings of this test."""
    sentences: dict[str, None] = {}
    monkeypatch.setattr(notices, "_collected", sentences)
    return sentences


def scene(root: Path, counts: dict[str, int], text: bool = False) -> Path:
    """A capture of six photographs with a model of the first photographs in sparse/NAME for each name."""
    write_scene(root, images=[SampleImage(f"{index}.png") for index in range(6)])
    shutil.rmtree(root / "sparse")
    for name, count in counts.items():
        write_scene(root / "part", images=[SampleImage(f"{index}.png") for index in range(count)], text=text)
        shutil.copytree(root / "part" / "sparse" / "0", root / "sparse" / name, dirs_exist_ok=True)
        shutil.rmtree(root / "part")
    return root


def count_of(root: Path, **keys: Any) -> int:
    return len(names(load(root, holdout="none", **keys).train))


@pytest.mark.parametrize("text", [False, True])
def test_the_largest_is_taken(tmp_path: Path, text: bool, said: dict[str, None]) -> None:
    assert count_of(scene(tmp_path, COUNTS, text)) == 5
    sentences = " ".join(said)
    assert "sparse/1 is taken, the largest, with 5 photographs" in sentences
    assert "left out are sparse/2 with 4, sparse/0 with 3 (--data.model 2" in sentences
    assert "1 of 6 photographs in" in sentences and "have no pose in the model and are left out: 5.png." in sentences


def test_a_model_by_name(tmp_path: Path, said: dict[str, None]) -> None:
    root = scene(tmp_path, COUNTS)
    assert count_of(root, model=0) == 3 and count_of(root, model="2") == 4
    assert not any("models" in sentence for sentence in said), "a choice needs no word"
    with pytest.raises(SplatlearnError, match=r"model 7 is not in .*sparse: expected one of 0, 1, 2\."):
        load(root, model=7)


def test_one_model_needs_no_word(tmp_path: Path, said: dict[str, None]) -> None:
    assert count_of(scene(tmp_path, {"0": 6})) == 6 and not said


def test_of_equal_size_the_first(tmp_path: Path, said: dict[str, None]) -> None:
    assert count_of(scene(tmp_path, {"1": 3, "0": 3, "10": 3})) == 3
    assert "sparse/0 is taken, the first of equal size, with 3 photographs" in " ".join(said)


def test_a_damaged_one_is_named(tmp_path: Path, said: dict[str, None]) -> None:
    root = scene(tmp_path, COUNTS)
    (root / "sparse" / "1" / "images.bin").write_bytes(b"\5\0\0")
    assert count_of(root) == 4
    assert "sparse/2 is taken" in " ".join(said) and "incomplete or damaged: sparse/1" in " ".join(said)


def test_the_largest_is_not_replaced_when_its_end_is_missing(tmp_path: Path) -> None:
    root = scene(tmp_path, COUNTS)
    file = root / "sparse" / "1" / "images.bin"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(SplatlearnError, match=r"sparse/1/images\.bin is cut short.*\(--data\.model 0 takes"):
        load(root)


def test_the_folder_of_the_model_itself(tmp_path: Path) -> None:
    root = scene(tmp_path, COUNTS)
    assert count_of(root / "sparse" / "2") == 4


def test_text_beside_another_binary_is_said(tmp_path: Path, said: dict[str, None]) -> None:
    root = scene(tmp_path, {"0": 4})
    write_scene(tmp_path / "text", images=[SampleImage(f"{index}.png") for index in range(2)], text=True)
    for file in (tmp_path / "text" / "sparse" / "0").glob("*.txt"):
        shutil.copy(file, root / "sparse" / "0")
    assert count_of(root) == 4
    assert "differ" in " ".join(said) and ".bin" in " ".join(said)


def test_equal_text_and_binary_need_no_word(tmp_path: Path, said: dict[str, None]) -> None:
    root = scene(tmp_path, {"0": 6})
    write_scene(tmp_path / "text", images=[SampleImage(f"{index}.png") for index in range(6)], text=True)
    for file in (tmp_path / "text" / "sparse" / "0").glob("*.txt"):
        shutil.copy(file, root / "sparse" / "0")
    assert count_of(root) == 6 and not said


def test_files_that_are_no_photographs_here(tmp_path: Path, said: dict[str, None]) -> None:
    root = scene(tmp_path, {"0": 6})
    for name in ("a.CR2", "b.cr2", "clip.MOV", "._0.png", ".hidden.jpg", "notes.txt"):
        (root / "images" / name).write_bytes(b"x")
    (root / "images" / "without").write_bytes(b"\xff\xd8\xff\xe0" + bytes(20))
    load(root, holdout="none")
    (sentence,) = said
    assert "6 files are left out: 2 .cr2 (raw" in sentence and "a.CR2, b.cr2" in sentence
    assert all(name in sentence for name in ("clip.MOV", "._0.png", ".hidden.jpg", "without"))
    assert "notes.txt" not in sentence


def test_masks_within_the_photographs_are_none(tmp_path: Path, said: dict[str, None]) -> None:
    from PIL import Image

    root = scene(tmp_path, {"0": 6})
    (root / "images" / "masks").mkdir()
    Image.fromarray(np.full((30, 40), 255, np.uint8)).save(root / "images" / "masks" / "0.png.png")
    load(root, holdout="none", masks="images/masks")
    assert not said


def test_masks_of_no_photograph_are_named(tmp_path: Path, said: dict[str, None]) -> None:
    from PIL import Image

    root = scene(tmp_path, {"0": 6})
    (root / "masks").mkdir()
    for name in ("0.png.png", "1.png", "2.PNG"):
        Image.fromarray(np.full((30, 40), 255, np.uint8)).save(root / "masks" / name)
    load(root, holdout="none", masks="masks")
    (sentence,) = said
    assert "2 files are the mask of no photograph" in sentence and "1.png, 2.PNG; the mask of photo.jpg is" in sentence
