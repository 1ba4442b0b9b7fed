"""Fixtures that several test files share: where the measuring scenes are, and calm threads."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest  # noqa: E402  (the OpenMP policy must be set before torch loads its runtime)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_scenes() -> Path:
    """The folder of real scenes, or a skip where it is absent."""
    scenes = SHARED / "scenes"
    if not scenes.is_dir():
        pytest.skip("the measuring scenes (../shared/scenes) are not here")
    return scenes
