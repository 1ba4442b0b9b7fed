"""Checkpoints that survive crashes: safetensors and JSON, checksummed, renamed into place only when whole.

A run folder holds ``checkpoints/step_0000100/`` with three files: ``tensors.safetensors``, ``state.json``,
and ``manifest.json`` with the size and SHA-256 of the other two and of itself. There is no pickle, so a
checkpoint from a stranger runs no code.
"""

import errno
import hashlib
import json
import math
import os
import re
import reprlib
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError, brief
from splatlearn.files import remove_folder, replacing_folder

TENSORS = "tensors.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
FORMAT = 1

_NAME = re.compile(r"step_([0-9]{7,18})")
_LONGEST_MANIFEST = 1 << 16  # bytes
_LONGEST_HEADER = 1 << 24  # bytes of safetensors' description of all tensors
_CHUNK = 1 << 20  # bytes read at once while hashing
_SPARE = 1 << 16  # bytes of free disk asked for beyond the payload: folders and block rounding


# ---- a checkpoint folder ----


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any], keep: int = 2) -> Path:
    """Write ``folder/step_NNNNNNN`` whole or not at all, then delete all but the newest ``keep`` up to it.

    Tensors of any device, shape and dtype known to safetensors; ``state`` must survive JSON unchanged (string
    keys, lists rather than tuples). Raises SplatlearnError, with the earlier checkpoints intact, when a
    tensor holds NaN or infinity, when the state does not survive JSON, or when the disk is full.
    """
    plain = _plain_tensors(step, tensors)
    text = _state_text(step, state)
    final = folder / f"step_{step:07d}"
    try:
        with replacing_folder(final) as temporary:
            _require_space(folder, sum(t.numel() * t.element_size() for t in plain.values()) + len(text))
            _write_tensors(temporary / TENSORS, plain)
            (temporary / STATE).write_bytes(text)
            (temporary / MANIFEST).write_bytes(_manifest_bytes(step, temporary))
    except SplatlearnError as error:
        if not isinstance(cause := error.__cause__, OSError):
            raise
        raise SplatlearnError(
            f"cannot save the checkpoint {final}: {cause.strerror or cause}; earlier checkpoints are intact"
        ) from cause
    for old in [path for path in _complete(folder) if _step_in_name(path) <= step][: -max(keep, 1)]:
        remove_folder(old)  # where that fails, the next save tries again
    return final


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the state of the checkpoint folder ``path``, once its checksums agree.

    Raises SplatlearnError naming the file that is missing or damaged.
    """
    import safetensors
    import safetensors.torch

    files = _read_manifest(path)["files"]
    for name in (TENSORS, STATE):
        if _fingerprint(path / name, files[name]) != files[name]:
            raise _damaged(path / name, "its size or SHA-256 is not the one in the manifest")
    try:
        state = _parsed((path / STATE).read_bytes())
        with (path / TENSORS).open("rb") as file:
            if int.from_bytes(file.read(8), "little") > _LONGEST_HEADER:
                raise ValueError(f"a header of more than {_LONGEST_HEADER:,} bytes")
        mapped = safetensors.torch.load_file(path / TENSORS)
        # clones, as the file's pages are neither aligned for SIMD nor safe from a later change of the file
        tensors = {name: tensor.clone() for name, tensor in mapped.items()}
    except OSError as error:
        raise _damaged(path / MANIFEST, error.strerror or str(error)) from error
    except (ValueError, LookupError, TypeError, RecursionError, RuntimeError, safetensors.SafetensorError) as error:
        raise _damaged(path / MANIFEST, f"it seals what splatlearn does not write ({_short(error)})") from error
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise _damaged(path / TENSORS, f"tensor {_short(name)} is not finite everywhere")
    return tensors, state


def latest(folder: Path) -> Path | None:
    """The checkpoint of the highest step in ``folder``; what a crash left half-written does not count."""
    complete = _complete(folder)
    return complete[-1] if complete else None


def step_of(path: Path) -> int:
    """The last complete step in the checkpoint folder ``path``."""
    return int(_read_manifest(path)["step"])


def _step_in_name(path: Path) -> int:
    """The step in the name of a checkpoint folder, or -1 if it is not one's name."""
    match = _NAME.fullmatch(path.name)
    return int(match.group(1)) if match else -1


def _complete(folder: Path) -> list[Path]:
    """Checkpoint folders, by step."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _step_in_name(path) >= 0), key=_step_in_name)


# ---- what a task expects ----


def require_tensors(
    label: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], rows: int | None = None
) -> None:
    """Check that all expected tensors are there, with the same dtype and shape; others are ignored.

    Args:
        label: Whose checkpoint it is, such as "a scene's checkpoint".
        tensors: What was loaded.
        expected: What the task holds now.
        rows: The first dimension of all of them, where it need not be that of the expected ones.

    Raises:
        SplatlearnError: One is missing or different.
    """
    for name, own in expected.items():
        shape = list(own.shape) if rows is None else [rows, *own.shape[1:]]
        loaded = tensors.get(name)
        if loaded is None or list(loaded.shape) != shape or loaded.dtype != own.dtype:
            got = "none" if loaded is None else f"{loaded.dtype} {_short(list(loaded.shape))}"
            raise SplatlearnError(f"{label} must hold '{name}' as {own.dtype} {shape}, got {got}")


def require_state(label: str, state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that the state has the expected keys with values of the same types, lengths and keys; others are ignored.

    Numbers must be finite, and counts below 2**63. A whole number stands for a float, too.

    Raises:
        SplatlearnError: A key is missing, or its value is of another type.
    """
    for name, own in expected.items():
        if name not in state or not _is_alike(state[name], own):
            got = _short(state[name]) if name in state else "none"
            raise SplatlearnError(f"{label} must hold the state '{name}' like {_short(own)}, got {got}")


def set_generator(label: str, generator: torch.Generator, tensors: Mapping[str, Tensor]) -> None:
    """Give a generator the state in the tensor 'generator'; raises SplatlearnError where that is none."""
    require_tensors(label, tensors, {"generator": generator.get_state()})
    try:
        generator.set_state(tensors["generator"])
    except RuntimeError as error:
        raise SplatlearnError(f"{label} must hold the state of a generator as 'generator', got other bytes") from error


def _is_alike(value: Any, own: Any) -> bool:
    if isinstance(own, dict):
        return isinstance(value, dict) and value.keys() == own.keys() and all(_is_alike(value[k], own[k]) for k in own)
    if isinstance(own, (list, tuple)):
        same = isinstance(value, list) and len(value) == len(own)
        return same and all(map(_is_alike, value, own))
    if isinstance(own, float):
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if type(own) is int:
        return type(value) is int and abs(value) < 2**63
    return type(value) is type(own)


def _is_finite(tensor: Tensor) -> bool:
    number = tensor.is_floating_point() or tensor.is_complex()
    return not number or bool(torch.isfinite(tensor.detach()).all())


# ---- writing ----


def _plain_tensors(step: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Finite, contiguous, on the CPU, and no two in the same memory (safetensors refuses those)."""
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise SplatlearnError(f"step {step} was not saved: tensor '{name}' is not finite everywhere")
        copy = tensor.detach().cpu().contiguous()
        if copy.untyped_storage().data_ptr() in storages:
            copy = copy.clone()
        storages.add(copy.untyped_storage().data_ptr())
        plain[name] = copy
    return plain


def _state_text(step: int, state: dict[str, Any]) -> bytes:
    for key, value in state.items():
        try:
            survives = json.loads(json.dumps({key: value}, allow_nan=False)) == {key: value}
        except (TypeError, ValueError):
            survives = False
        if not survives:
            raise SplatlearnError(f"step {step} was not saved: state '{key}' does not survive JSON unchanged")
    return json.dumps(state, indent=1, sort_keys=True).encode()


def _require_space(folder: Path, payload: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < payload + _SPARE:
        raise OSError(None, f"the disk is full: it needs {payload + _SPARE:,} bytes, {free:,} are free")


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    import safetensors
    import safetensors.torch

    try:
        safetensors.torch.save_file(tensors, path)
    except safetensors.SafetensorError as error:  # its way to report a full disk
        raise OSError(None, str(error)) from error


# ---- the manifest ----


def _fingerprint(path: Path, expected: Any = None) -> dict[str, Any]:
    """Size and SHA-256 of a file; without reading it, its size alone where that is not the expected one."""
    digest = hashlib.sha256()
    try:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if isinstance(expected, dict) and expected.get("bytes") != size:
                return {"bytes": size}
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            return {"bytes": file.tell(), "sha256": digest.hexdigest()}
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def _opened(path: Path) -> BinaryIO:
    """The file, opened; raises OSError for a folder, a device, or a pipe, which would be read for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file")
    return os.fdopen(descriptor, "rb")


def _manifest_bytes(step: int, folder: Path) -> bytes:
    files = {name: _fingerprint(folder / name) for name in (TENSORS, STATE)}
    return _sealed({"format": FORMAT, "step": step, "files": files})


def _sealed(manifest: dict[str, Any]) -> bytes:
    """The bytes of manifest.json: its content with the SHA-256 of that content."""
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**manifest, "seal": seal}, indent=1, sort_keys=True) + "\n").encode()


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        with _opened(file) as opened:
            content = opened.read(_LONGEST_MANIFEST + 1)
        manifest = json.loads(content)
        manifest.pop("seal")
        sealed = _sealed(manifest)
    except OSError as error:
        raise _damaged(file, error.strerror or str(error)) from error
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(file, "it is not a sealed manifest") from error
    if sealed != content:  # one canonical form, so that no flipped bit passes, not even in a blank
        raise _damaged(file, "its seal does not match")
    if manifest.get("format") != FORMAT:
        raise SplatlearnError(f"{file}: expected checkpoint format {FORMAT}, got {_short(manifest.get('format'))}")
    files = manifest.get("files")
    if type(manifest.get("step")) is not int or not isinstance(files, dict) or set(files) != {TENSORS, STATE}:
        raise _damaged(file, "it lacks the step or the files")
    if not 0 <= manifest["step"] < 2**63 or _step_in_name(path) not in (-1, manifest["step"]):
        raise _damaged(file, f"it is of step {_short(manifest['step'])}")
    return dict(manifest)


def _parsed(content: bytes) -> dict[str, Any]:
    """A JSON object without keys that are there twice and numbers that are not finite; raises ValueError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"the number {_short(text)} is not finite")
        return value

    state = json.loads(content, object_pairs_hook=unique, parse_constant=number, parse_float=number)
    if not isinstance(state, dict):
        raise ValueError("the state is no object")
    return state


def _short(value: Any) -> str:
    """A value for an error message."""
    return brief(value if isinstance(value, Exception) else reprlib.repr(value), 80)


def _damaged(file: Path, reason: str) -> SplatlearnError:
    name = _short(file.parent.name)[1:-1]
    return SplatlearnError(
        f"checkpoint file {file} cannot be used: {reason}; remove {name} to go on from the one before"
    )
