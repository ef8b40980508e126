"""Checkpoints of a run: written atomically, read back exactly, refused with a clear message when
damaged.

A checkpoint is a folder `step_00000200/`: `model.safetensors` (trainable parameters and buffers;
what is frozen does not change and comes from where the model came from), `optimizer.pt` (read with
`weights_only`), and `progress.json` with the step, the run's settings and the checksums of the
other two. The folder gets its name by one rename after everything is on disk, so a kill leaves the
previous checkpoint as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentvla_core.errors import LatentVLAError

PREFIX = "step_"
KEEP = 2  # the newest and the one before it, to fall back to when a disk damages the newest


_UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, ValueError, TypeError,
               KeyError, IndexError, AttributeError, AssertionError, EOFError)  # fmt: skip
"""What torch raises on files that are damaged in ways a checksum was made for, or not."""


class CheckpointError(LatentVLAError):
    """A checkpoint cannot be used: damaged, or made by a run with other settings."""


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: Mapping[str, Any],
) -> Path:
    """Write the state after `step` finished steps and drop all but the newest `KEEP` checkpoints."""
    unfinished = folder / f".{PREFIX}{step:08d}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file(
        {name: t.detach().cpu().contiguous() for name, t in _state(model).items()},
        unfinished / "model.safetensors",
    )
    torch.save(optimizer.state_dict(), unfinished / "optimizer.pt")
    sums = {name: file_sha256(unfinished / name) for name in ("model.safetensors", "optimizer.pt")}
    return finish(unfinished, folder, step, settings, sums)


def finish(
    unfinished: Path, folder: Path, step: int, settings: Mapping[str, Any], sums: Mapping[str, str]
) -> Path:
    """Give a written checkpoint its progress and its name, by one rename; drop the older ones.

    Args:
        sums: checksum by name of every other file in it.
    """
    target = folder / f"{PREFIX}{step:08d}"
    text = json.dumps({"step": step, "settings": dict(settings), "sha256": dict(sums)}, indent=1)
    (unfinished / "progress.json").write_text(text)
    for file in unfinished.rglob("*"):
        if file.is_file():
            _sync(file)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(unfinished, target)
    for old in _all(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> int:
    """Restore the newest checkpoint into model and optimiser; the number of finished steps (0 =
    there is none).
    """
    last = newest(folder, settings)
    if last is None:
        return 0
    try:
        weights = load_file(last.path / "model.safetensors")
        state = torch.load(last.path / "optimizer.pt", map_location="cpu", weights_only=True)
        _restore(last.path, _state(model), weights)
        optimizer.load_state_dict(state)
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        raise _damaged(last.path, str(error)[:300]) from error
    return last.step


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that is whole and of this run."""

    path: Path
    step: int


def newest(folder: Path, settings: Mapping[str, Any]) -> Found | None:
    """The newest checkpoint; None where there is none. Raises CheckpointError where it is damaged
    or of a run with other settings.
    """
    checkpoints = _all(folder)
    if not checkpoints:
        return None
    progress = _verified(checkpoints[-1])
    _same_settings(checkpoints[-1], progress["settings"], json.loads(json.dumps(dict(settings))))
    return Found(checkpoints[-1], int(progress["step"]))


def finished_steps(folder: Path) -> int:
    """Steps of the newest checkpoint, by its name; 0 = there is none."""
    checkpoints = _all(folder)
    return int(checkpoints[-1].name.removeprefix(PREFIX)) if checkpoints else 0


def file_sha256(path: Path) -> str:
    """Checksum of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters (tied ones once) and persistent buffers, the live tensors."""
    state = {name: p for name, p in model.named_parameters() if p.requires_grad}
    kept = model.state_dict().keys()
    return {**state, **{name: b for name, b in model.named_buffers() if name in kept}}


@torch.no_grad()
def _restore(path: Path, live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """In place, because optimisers and closures hold the live tensors."""
    differing = sorted(live.keys() ^ saved.keys()) + [
        n for n in live if n in saved and live[n].shape != saved[n].shape
    ]
    if differing:
        raise CheckpointError(
            f"{path}: {len(differing)} tensors do not belong to this model, first {differing[0]!r}; "
            "a run resumes only with the model it began with: use another checkpoint_dir"
        )
    for name, tensor in live.items():
        tensor.copy_(saved[name])


def _verified(path: Path) -> dict[str, Any]:
    try:
        progress = json.loads((path / "progress.json").read_text())
        if not isinstance(progress["settings"], dict) or int(progress["step"]) < 0:
            raise ValueError("progress.json has no settings or no step")
        if not isinstance(progress["sha256"], dict) or not progress["sha256"]:
            raise ValueError("progress.json has no checksums")
        sums = {name: file_sha256(path / name) for name in progress["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, str(error)[:300]) from error
    wrong = [name for name, value in sums.items() if value != progress["sha256"][name]]
    if wrong:
        raise _damaged(path, f"the checksum of {wrong[0]} is not the recorded one")
    return progress


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: the checkpoint is damaged ({why}); delete this folder to resume from the one before"
    )


def _same_settings(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [
        f"{k} was {then.get(k)!r}, is {now.get(k)!r}"
        for k in {**then, **now}
        if then.get(k) != now.get(k)
    ]
    if changed:
        raise CheckpointError(
            f"{path}: made by a run with other settings ({'; '.join(changed)}); "
            "use another checkpoint_dir or those settings"
        )


def _all(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.is_dir())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
