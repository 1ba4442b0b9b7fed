"""Recorded camera paths: they pass through their keyframes, survive their file, and refuse what is none."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatlearn.errors import SplatlearnError
from splatlearn.scene.keyframes import (
    MOST_FRAMES,
    Keyframe,
    KeyframePath,
    format_path,
    look_rotation,
    parse_path,
    pinhole_camera,
    read_path,
    rotation_of,
    same_pose,
    write_path,
)


def key(seconds: float, angle: float, fov: float = 50.0) -> Keyframe:
    """A pose on a circle around the origin that looks inwards."""
    place = np.array([4 * math.cos(angle), 0.5 * math.sin(2 * angle), 4 * math.sin(angle)])
    return Keyframe(seconds, place, look_rotation(-place, np.array([0.0, -1.0, 0.0])), fov)


def path(*keys: Keyframe) -> KeyframePath:
    return KeyframePath(64, 48, 30.0, keys or (key(0, 0), key(1.5, 1, 70), key(2, 1.7), key(4, 3)))


def test_a_path_passes_through_its_keyframes() -> None:
    recorded = path()
    for found, wanted in zip(recorded.at([k.seconds for k in recorded.keyframes]), recorded.keyframes, strict=True):
        np.testing.assert_allclose(found.center, wanted.position, atol=1e-9, err_msg="the camera is elsewhere")
        turn = abs(float(rotation_of(found) @ wanted.wxyz))
        assert turn > 1 - 1e-12, "the camera looks elsewhere"
        fov = math.degrees(2 * math.atan(found.height / 2 / found.K[1, 1]))
        assert fov == pytest.approx(wanted.fov), "the lens is another"


def test_the_frame_is_that_of_opencv() -> None:
    place = np.array([1.0, 2.0, 3.0])
    camera = pinhole_camera("", 40, 30, 90.0, place, look_rotation(np.array([1.0, 0, 0]), np.array([0, -1.0, 0])))
    np.testing.assert_allclose(camera.center, place, err_msg="the position is not the centre")
    ahead, below = (camera.world_to_camera @ [*(place + step), 1] for step in ([2, 0, 0], [2, 0.5, 0]))
    np.testing.assert_allclose(ahead[:3], [0, 0, 2], atol=1e-12, err_msg="what is looked at is not on the axis")
    pixel = camera.K @ below[:3]
    assert pixel[1] / pixel[2] > 15, "the world's down must be down in the picture too"
    assert camera.K[1, 1] == pytest.approx(15), "90 degrees must span the height"


def test_equal_times_make_equal_steps() -> None:
    straight = path(*(Keyframe(s, np.array([s, 0, 0]), np.array([1.0, 0, 0, 0]), 50) for s in (0.0, 1.0, 2.0, 3.0)))
    steps = np.diff([camera.center[0] for camera in straight.cameras()])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9, err_msg="an even flight stumbles")


def test_a_closed_path_has_no_seam() -> None:
    around = [key(i, i * math.pi / 2) for i in range(4)]
    closed = path(*around, Keyframe(4.0, around[0].position, -around[0].wxyz, around[0].fov))
    cameras = closed.cameras(200)
    centers = np.array([camera.center for camera in cameras])
    steps = np.linalg.norm(np.diff(centers, axis=0, append=centers[:1]), axis=1)
    assert steps.max() < 2 * steps.min(), "the film jumps or halts where it begins again"
    bend = np.linalg.norm(np.diff(centers, n=2, axis=0, append=centers[:2], prepend=centers[-2:]), axis=1)
    assert bend[:2].max() < 2 * np.median(bend), "the flight has a corner where it begins again"


def test_the_number_of_frames() -> None:
    assert len(path().cameras()) == 120, "4 seconds at 30 a second"
    assert len(path().cameras(7)) == 7
    assert len(path(key(0, 0)).cameras()) == 1, "one keyframe is one picture"
    with pytest.raises(SplatlearnError, match="at least one frame"):
        path().cameras(0)


def test_a_file_gives_back_the_path(tmp_path: Path) -> None:
    recorded = path()
    write_path(tmp_path / "flug über allem.json", recorded)
    found = read_path(tmp_path / "flug über allem.json")
    assert (found.width, found.height, found.fps) == (64, 48, 30.0)
    assert all(same_pose(a, b) for a, b in zip(found.keyframes, recorded.keyframes, strict=True)), "a pose has changed"
    assert [k.seconds for k in found.keyframes] == [k.seconds for k in recorded.keyframes], "a moment has changed"


def changed(**values: Any) -> str:
    return json.dumps(json.loads(format_path(path())) | values)


def with_key(**values: Any) -> str:
    found = json.loads(format_path(path()))
    found["keyframes"][1] |= values
    return json.dumps(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no camera path"),
        ("[1, 2]", "expected"),
        ('{"format": "splatlearn camera path", "version": 2}', "version"),
        ('{"format": "splatlearn camera path", "version": 1}', "'keyframes' is missing"),
        (changed(keyframes=[]), "number of keyframes must be from 1"),
        (changed(keyframes=7), "no camera path"),
        (changed(keyframes=[7]), "no camera path"),
        (changed(width=0), "width must be from 1"),
        (changed(width=10.5), "whole numbers"),
        (changed(height=10**9), "height must be from 1 to 16384"),
        (changed(fps="fast"), "finite number"),
        (changed(fps=True), "finite number"),
        (changed(fps=10**400), "no camera path"),
        (with_key(seconds=0), "must begin at 0 and rise"),
        (with_key(seconds=1e-9), "must begin at 0 and rise"),
        (with_key(seconds=-1), "must begin at 0 and rise"),
        (changed(fps=1000, keyframes=[*json.loads(format_path(path()))["keyframes"], {}]), "missing"),
        (with_key(position=[0, 0]), "3 numbers"),
        (with_key(position=[0, 0, 1e300]), "finite position"),
        (with_key(wxyz=[0, 0, 0, 0]), "a rotation"),
        (with_key(fov=0), "fov of keyframe 1 must be from 1 to 170"),
        (with_key(fov=float("nan")), "finite number"),
        ("[" * 100_000, "no camera path"),
    ],
)
def test_what_is_no_path_is_told_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(SplatlearnError, match=said) as raised:
        parse_path(text, "flight.json")
    assert "flight.json" in str(raised.value) and "\n" not in str(raised.value), "the file is not named in one sentence"


def test_a_path_without_end_is_refused() -> None:
    with pytest.raises(SplatlearnError, match=f"at most {MOST_FRAMES} frames"):
        path(key(0, 0), key(1e6, 1))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SplatlearnError, match="cannot read .*nowhere"):
        read_path(tmp_path / "nowhere.json")
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SplatlearnError, match="not text"):
        read_path(tmp_path / "x.json")
    with pytest.raises(SplatlearnError, match="cannot read"):
        read_path(tmp_path)
