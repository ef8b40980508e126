"""What the language model (or its student) hands on: codes, logits and states of every scene.

N scenes, M pooled picture tokens, D width of the model that made them, 12 action positions, 16
codes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.types import Array
from latentvla_core.vlm.tokens import CODEBOOK_SIZE, NO_CODE, NUM_ACTION_TOKENS

KINDS = ("visual", "action")
ARRAYS = ("codes", "logits", "visual", "action", "valid")


@dataclass(frozen=True, slots=True)
class VlmFeatures:
    """One row per scene. Rows that are not valid hold zeros and codes -1; whoever reads them must
    look at `valid`.
    """

    scene_tokens: tuple[str, ...]
    codes: Array
    """(N, 12) int8 generated greedily under the mask."""
    logits: Array
    """(N, 12, 16) float32 before the softmax, at each step given the generated tokens so far."""
    visual: Array
    """(N, M, D) float16 last-layer states at picture tokens, pooled over the panorama, row-major."""
    action: Array
    """(N, 12, D) float16 last-layer states at the generated tokens; a label never enters
    (latentvla.md §3.5).
    """
    valid: Array
    """(N,) bool"""
    reasons: tuple[str, ...]
    """Why a row is not valid; "" where it is."""
    shown: tuple[str, ...] = KINDS
    """Kinds of tokens that a planner gets; controls withhold some (planner/controls.py)."""

    def __post_init__(self) -> None:
        n = len(self.scene_tokens)
        expected = {
            "codes": (n, NUM_ACTION_TOKENS),
            "logits": (n, NUM_ACTION_TOKENS, CODEBOOK_SIZE),
            "valid": (n,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} is {getattr(self, name).shape}, expected {shape}: one row per scene token"
                )
        if self.visual.shape[0] != n or self.action.shape != (
            n,
            NUM_ACTION_TOKENS,
            self.visual.shape[2],
        ):
            raise ValueError(
                f"visual {self.visual.shape} and action {self.action.shape} must be (N, M, D), (N, 12, D)"
            )
        if unknown := set(self.shown) - set(KINDS):
            raise ValueError(f"shown is {sorted(unknown)}; kinds of tokens are {', '.join(KINDS)}")
        if len(self.reasons) != n:
            raise ValueError(f"{len(self.reasons)} reasons for {n} scenes; give one per scene")

    def __len__(self) -> int:
        return len(self.scene_tokens)

    @property
    def width(self) -> int:
        """D."""
        return int(self.visual.shape[2])

    def has(self, kind: str) -> Array:
        """(N,) bool: does a planner get tokens of this kind, `visual` or `action`?"""
        return np.asarray(self.valid, bool) & (kind in self.shown)

    def select(self, rows: Array | Sequence[int]) -> VlmFeatures:
        """The given rows, in the given order."""
        rows = np.asarray(rows, np.int64)
        arrays = {name: getattr(self, name)[rows] for name in ARRAYS}
        tokens, reasons = (
            tuple(values[i] for i in rows) for values in (self.scene_tokens, self.reasons)
        )
        return replace(self, scene_tokens=tokens, reasons=reasons, **arrays)

    def aligned(self, scene_tokens: Sequence[str]) -> VlmFeatures:
        """Rows in the order of these scenes; a scene without a row becomes an invalid row."""
        where = {token: i for i, token in enumerate(self.scene_tokens)}
        padded = concat(
            [self, empty(("",), self.visual.shape[1], self.width, "no features for this scene")]
        )
        chosen = padded.select([where.get(token, len(self)) for token in scene_tokens])
        return replace(chosen, scene_tokens=tuple(scene_tokens), shown=self.shown)

    def rows(self) -> Iterable[dict[str, Any]]:
        """Table rows; float32, because tables know no half floats."""
        for i, token in enumerate(self.scene_tokens):
            yield {
                "scene_token": token,
                "codes": self.codes[i],
                "logits": self.logits[i],
                "visual": self.visual[i].astype(np.float32),
                "action": self.action[i].astype(np.float32),
                "valid": bool(self.valid[i]),
                "reason": self.reasons[i],
            }

    def save(self, folder: Path | str) -> Path:
        """One .npy per array, so that a set larger than memory can be mapped."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        text = json.dumps({"scene_tokens": self.scene_tokens, "reasons": self.reasons})
        (folder / "scenes.json").write_text(text)
        return folder


def load(folder: Path | str) -> VlmFeatures:
    """Read what `save` wrote; arrays stay on disk until they are used."""
    folder = Path(folder)
    try:
        scenes = json.loads((folder / "scenes.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(
            f"{folder}: no readable features ({error}); give a folder VlmFeatures.save wrote"
        ) from error
    return VlmFeatures(
        scene_tokens=tuple(scenes["scene_tokens"]), reasons=tuple(scenes["reasons"]), **arrays
    )


def from_rows(rows: Sequence[Mapping[str, Any]]) -> VlmFeatures:
    """Inverse of `VlmFeatures.rows`; arrays may come flat when their width can be told from the
    others.
    """
    if not rows:
        raise ValueError("no rows; features need at least one scene to know their width")
    count = len(rows)
    action = np.stack(
        [np.asarray(row["action"]).reshape(NUM_ACTION_TOKENS, -1) for row in rows]
    ).astype(np.float16)
    visual = np.stack(
        [np.asarray(row["visual"]).reshape(-1, action.shape[2]) for row in rows]
    ).astype(np.float16)
    logits = np.stack([np.asarray(row["logits"], np.float32) for row in rows])
    return VlmFeatures(
        scene_tokens=tuple(str(row["scene_token"]) for row in rows),
        codes=np.stack([np.asarray(row["codes"], np.int8) for row in rows]),
        logits=logits.reshape(count, NUM_ACTION_TOKENS, CODEBOOK_SIZE),
        visual=visual,
        action=action,
        valid=np.array([bool(row["valid"]) for row in rows]),
        reasons=tuple(str(row["reason"]) for row in rows),
    )


def streamed(
    rows: Iterable[Mapping[str, Any]], scene_tokens: Sequence[str], folder: Path | str
) -> VlmFeatures | None:
    """`from_rows(rows).aligned(scene_tokens)` for sets that no memory holds; None of no rows.

    States, 100 KB a scene at the width of a 3B model, lie in nameless files of `folder` that are
    mapped: a batch reads its own rows. Rows of other scenes are passed over.
    """
    where = {token: number for number, token in enumerate(scene_tokens)}
    found: VlmFeatures | None = None
    reasons = ["no features for this scene"] * len(scene_tokens)
    for row in rows:
        one = from_rows([row])
        found = found or _mapped(scene_tokens, one.visual.shape[1], one.width, Path(folder))
        number = where.get(one.scene_tokens[0])
        if number is not None:
            for name in ARRAYS:
                getattr(found, name)[number] = getattr(one, name)[0]
            reasons[number] = one.reasons[0]
    return None if found is None else replace(found, reasons=tuple(reasons))


def _mapped(scene_tokens: Sequence[str], num_visual: int, width: int, folder: Path) -> VlmFeatures:
    """`empty`, its states in files."""
    folder.mkdir(parents=True, exist_ok=True)
    small = empty(scene_tokens, 0, 0, "")

    def states(count: int) -> Array:
        shape = (len(scene_tokens), count, width)
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, np.float16, "w+", shape=shape) if shape[0] else np.zeros(shape)

    return replace(small, visual=states(num_visual), action=states(NUM_ACTION_TOKENS))


def concat(parts: Sequence[VlmFeatures]) -> VlmFeatures:
    """Rows of all parts, in order."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS
    }
    tokens = tuple(token for part in parts for token in part.scene_tokens)
    return VlmFeatures(
        scene_tokens=tokens, reasons=tuple(r for part in parts for r in part.reasons), **arrays
    )


def empty(scene_tokens: Sequence[str], num_visual: int, width: int, reason: str) -> VlmFeatures:
    """Rows that are not valid, to be filled or left."""
    n = len(scene_tokens)
    return VlmFeatures(
        scene_tokens=tuple(scene_tokens),
        codes=np.full((n, NUM_ACTION_TOKENS), NO_CODE, np.int8),
        logits=np.zeros((n, NUM_ACTION_TOKENS, CODEBOOK_SIZE), np.float32),
        visual=np.zeros((n, num_visual, width), np.float16),
        action=np.zeros((n, NUM_ACTION_TOKENS, width), np.float16),
        valid=np.zeros(n, bool),
        reasons=(reason,) * n,
    )
