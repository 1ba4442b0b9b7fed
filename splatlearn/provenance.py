"""What a checkpoint was made from: the keys of the config that fix its tensors, and fingerprints of the data."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from splatlearn.errors import SplatlearnError, listed
from splatlearn.notices import warn
from splatlearn.task import AnyTask

KEY = "provenance"  # in the state of a checkpoint
MOST_NAMES = 3  # that a sentence lists of each kind

Fingerprints = Mapping[str, Mapping[str, str]]  # "poses" -> {"a.jpg": fingerprint}; the name is "" where there is one


def record(task: AnyTask) -> dict[str, Any]:
    """What the checkpoints of this task are made from, as JSON-able values. It reads the data files."""
    return {"keys": dict(task.fixed_keys(task.config)), "data": task.fingerprints()}


def check_keys(task: type[AnyTask], config: Any, saved: Mapping[str, Any]) -> None:
    """Compare the keys that cannot change within a run.

    Args:
        saved: Their values in the checkpoint; keys that it does not name are not compared.

    Raises:
        SplatlearnError: A value differs.
    """
    now = task.fixed_keys(config)
    changed = [
        f"'{name}' is {saved[name]!r} in the checkpoint and cannot change, got {value!r}"
        for name, value in now.items()
        if name in saved and saved[name] != value
    ]
    if changed:
        raise SplatlearnError("; ".join(changed))


def check_data(task: AnyTask, saved: Fingerprints, step: int, allow: bool) -> None:
    """Compare the data of a task with those of a checkpoint.

    Args:
        saved: The fingerprints in the checkpoint.
        step: That of the checkpoint.
        allow: Go on with changed data; the warning that says so is kept in the run folder.

    Raises:
        SplatlearnError: The data changed, and `allow` is not set.
    """
    changes = differences(saved, task.fingerprints())
    if not changes:
        return
    if not allow:
        raise SplatlearnError(
            f"the data are not those of the checkpoint of step {step}: {changes} (--allow-changed-data goes on)"
        )
    warn(f"After step {step} the data are not those of the checkpoint: {changes}.")


def differences(old: Fingerprints, new: Fingerprints) -> str:
    """What differs, as "changed poses of a.jpg, b.jpg, c.jpg and 5 more; new photographs d.jpg"; "" if nothing does.

    A kind that only one side has is not compared. A name that came or went is listed for its first kind only.
    """
    found: list[str] = []
    mentioned: set[str] = set()
    for kind in (kind for kind in new if kind in old):
        before, now = old[kind], new[kind]
        changed = [name for name in now if name in before and now[name] != before[name]]
        if changed:
            found.append(_phrase("changed", kind, changed))
        for word, names in (("missing", before.keys() - now.keys()), ("new", now.keys() - before.keys())):
            if names - mentioned:
                found.append(_phrase(word, kind, sorted(names - mentioned)))
            mentioned |= names
    return "; ".join(found)


def of_checkpoint(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `record` returned for a checkpoint's state; None for a checkpoint of before it was recorded.

    Raises:
        SplatlearnError: It is not of the form that `record` gives.
    """
    if KEY not in state:
        return None
    saved = state[KEY]
    keys, data = (saved.get("keys"), saved.get("data")) if isinstance(saved, dict) else (None, None)
    if not isinstance(keys, dict) or not isinstance(data, dict):
        raise SplatlearnError(f"the checkpoint's state '{KEY}' must have the mappings keys and data")
    for kind, names in data.items():
        if not isinstance(names, dict) or not all(isinstance(value, str) for value in names.values()):
            raise SplatlearnError(f"the checkpoint's state '{KEY}' must map the names of its {kind} to strings")
    return {"keys": keys, "data": data}


def fingerprint(content: bytes) -> str:
    """A short hash of bytes, for `Task.fingerprints`."""
    return hashlib.sha256(content).hexdigest()[:16]


def _phrase(word: str, kind: str, names: Sequence[str]) -> str:
    if names == [""]:
        return f"{word} {kind}"
    some = listed(names, MOST_NAMES)
    return f"{word} {kind} of {some}" if word == "changed" else f"{word} {kind} {some}"
