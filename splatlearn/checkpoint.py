"""Checkpoints that survive crashes: safetensors and JSON, checksummed, renamed into place only when whole.

A run folder holds ``checkpoints/step_0000100/`` with three files: ``tensors.safetensors``, ``state.json``,
and ``manifest.json`` with the size and SHA-256 of the other two and of itself. There is no pickle, so a
checkpoint from a stranger runs no code.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splatlearn.errors import SplatlearnError
from splatlearn.files import remove_folder, replacing_folder

TENSORS = "tensors.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
FORMAT = 1

_NAME = re.compile(r"step_(\d{7,})")
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
        if _fingerprint(path / name) != files[name]:
            raise _damaged(path / name, "its size or SHA-256 is not the one in the manifest")
    try:
        state = json.loads((path / STATE).read_bytes())
        mapped = safetensors.torch.load_file(path / TENSORS)
    except (ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise _damaged(path / MANIFEST, f"it seals what splatlearn does not write ({error})") from error
    # clones, as the file's pages are neither aligned for SIMD nor safe from a later change of the file
    return {name: tensor.clone() for name, tensor in mapped.items()}, state


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


# ---- writing ----


def _plain_tensors(step: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Finite, contiguous, on the CPU, and no two in the same memory (safetensors refuses those)."""
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not torch.isfinite(tensor.detach()).all():
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


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            return {"bytes": file.tell(), "sha256": digest.hexdigest()}
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


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
        content = file.read_bytes()
        manifest = json.loads(content)
        manifest.pop("seal")
    except OSError as error:
        raise _damaged(file, error.strerror or str(error)) from error
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise _damaged(file, "it is not a sealed manifest") from error
    if _sealed(manifest) != content:  # one canonical form, so that no flipped bit passes, not even in a blank
        raise _damaged(file, "its seal does not match")
    if manifest.get("format") != FORMAT:
        raise SplatlearnError(f"{file}: expected checkpoint format {FORMAT}, got {manifest.get('format')!r}")
    files = manifest.get("files")
    if type(manifest.get("step")) is not int or not isinstance(files, dict) or set(files) != {TENSORS, STATE}:
        raise _damaged(file, "it lacks the step or the files")
    return dict(manifest)


def _damaged(file: Path, reason: str) -> SplatlearnError:
    return SplatlearnError(
        f"checkpoint file {file} cannot be used: {reason}; remove {file.parent} to go on from the checkpoint before it"
    )
