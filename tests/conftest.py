"""Fixtures that several test files share: the backends to run on, where the measuring scenes are, and calm threads."""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest  # noqa: E402  (the OpenMP policy must be set before torch loads its runtime)
import torch  # noqa: E402

import splatlearn  # noqa: E402
from splatlearn import notices  # noqa: E402
from splatlearn.ops import capacity as capacities  # noqa: E402
from splatlearn.ops import native  # noqa: E402

# What a test starts as a process of its own must import the very package that the tests do, installed or a checkout.
os.environ["PYTHONPATH"] = str(Path(splatlearn.__file__).parents[1])

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def no_warnings_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins without warnings, as a process does."""
    monkeypatch.setattr(notices, "_collected", {})


@pytest.fixture(scope="session")
def shared_scenes() -> Path:
    """The folder of real scenes, or a skip where it is absent."""
    scenes = SHARED / "scenes"
    if not scenes.is_dir():
        pytest.skip("the measuring scenes (../shared/scenes) are not here")
    return scenes


@pytest.fixture(scope="session")
def emulated_library() -> Path:
    """The CUDA kernels compiled for the emulator, in the temporary folder: once for each state of their sources."""
    files = (path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cu", ".cpp"))
    sources = sorted(path for path in files if path.parent.name != "cpu")
    state = hashlib.sha256()
    for path in [ROOT / "setup.py", *sorted((ROOT / "build_native").glob("*.py")), *sources]:
        state.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"splatlearn_emulated_{os.getuid()}"
    library = folder / f"libsplatlearn_emulated_{state.hexdigest()[:16]}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        new = library.with_suffix(f".{os.getpid()}.new")
        command = [sys.executable, "setup.py", "-q", "build_emulator", "--out", str(new)]
        command += ["--objects", str(folder / "objects")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"the emulator does not compile: {done.stderr[-3000:]}"
        for old in folder.glob("libsplatlearn_emulated_*.so"):
            old.unlink()
        new.replace(library)
    return library


BACKENDS = ["cpu", "emulated"]
if torch.cuda.is_available():
    BACKENDS.append("cuda")
OPERATIONS = ("rasterization", "project", "bin_tiles", "rasterize", "photometric_loss", "ssim")
OPERATIONS += ("adam_step", "adam_steps")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a test on each backend: the CPU kernels, the CUDA kernels emulated, and a card where there is one.

    Tests hand CPU tensors to the operations that they import; for the card these go there and the results come back.
    """
    if request.param == "emulated":
        with native.emulated(request.getfixturevalue("emulated_library")):
            yield "emulated"
        return
    if request.param == "cuda":
        for name in set(OPERATIONS) & set(vars(request.module)):
            monkeypatch.setattr(request.module, name, on_card(getattr(request.module, name)))
    yield request.param


def moved(value: Any, device: str) -> Any:
    """Tensors on `device`, also those within tuples and dictionaries; those on no real device stay."""
    if isinstance(value, torch.Tensor):
        return value if value.is_meta else value.to(device)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [moved(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def copy_back(ours: Any, theirs: Any) -> None:
    """Writes what an operation has left in tensors on the card into those that were sent there."""
    if isinstance(ours, torch.Tensor):
        ours.copy_(theirs)
    elif isinstance(ours, tuple | list):
        for one, other in zip(ours, theirs, strict=True):
            copy_back(one, other)


def on_card(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The operation with its tensors on the card, for callers whose tensors are on the CPU."""

    @functools.wraps(operation)
    def there(*arguments: Any, **options: Any) -> Any:
        sent, named = moved(arguments, "cuda"), moved(options, "cuda")
        result = operation(*sent, **named)
        if operation.__name__.startswith("adam"):  # works in place
            copy_back(arguments, sent)
        return moved(result, "cpu")

    return there


@pytest.fixture
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CPU tensors go to the CUDA kernels, with nothing known of earlier views."""
    monkeypatch.setattr(capacities, "_capacities", {})
    with native.emulated(request.getfixturevalue("emulated_library")):
        yield
