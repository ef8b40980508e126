"""PDMS v1.1 and EPDMS v2.2 as batched torch operations, on CPU or GPU: the scorer's numbers in
float64, as a reward in training.

Legend: S scenes, B plans, T = 41 states. Preparation (reference, human, polygons, obstacles)
happens once per set of scenes; `measure.py` says what the sub-scores mean. A plan or scene that
cannot be scored is NaN with a reason, never a zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentvla_core.errors import DataError
from latentvla_core.pdms import aggregate
from latentvla_core.pdms.contacts.collisions import TTC_LAST_STEP_V1, TTC_LAST_STEP_V2
from latentvla_core.pdms.measure import FILTERED, MAX_POSE, usable
from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES, Metric
from latentvla_core.pdms.motion import tracker
from latentvla_core.pdms.roads.progress import MIN_REFERENCE_M
from latentvla_core.pdms.tensors.torch_collisions import collisions
from latentvla_core.pdms.tensors.torch_comfort import comfort_v1, comfort_v2, two_frame
from latentvla_core.pdms.tensors.torch_geometry import line_progress, motion_of
from latentvla_core.pdms.tensors.torch_pairs import pairs_of
from latentvla_core.pdms.tensors.torch_road import (
    area_flags,
    driving_direction,
    lane_keeping,
    traffic_lights,
)
from latentvla_core.pdms.tensors.torch_scores import Reason, TorchScores
from latentvla_core.pdms.tensors.torch_tracker import reference_states, simulate
from latentvla_core.pdms.tensors.torch_worlds import Tables, tables_of, tensors_of
from latentvla_core.pdms.world import World
from latentvla_core.types import PLAN_STEPS

CHUNK = {"cpu": 1024, "cuda": 16384}  # plans at once: the tracker's loop over time wants many
PIECE = {"cpu": 128}  # plans whose geometry is done at once: what a core's caches hold
EXTENDED = "two_frame_extended_comfort"


@dataclass(frozen=True, slots=True)
class TorchWorlds:
    """Scenes prepared on a device.

    >>> worlds = TorchWorlds.from_worlds(worlds, "cuda", metric="pdms")   # once
    >>> worlds.score(poses, scenes)["score"]                              # poses (B, K, 8, 3),
    scenes (B,) → (B, K)
    """

    metric: Metric
    tokens: tuple[str, ...]
    reasons: tuple[str, ...]
    """Per scene why it cannot be scored, "" if it can."""
    tables: Tables
    standard: Tensor
    """(S,) metres that the reference drives, times its multiplied sub-scores: what progress is
    measured against.
    """
    forgiven: Tensor
    """(S, 6) bool: sub-scores `measure.FILTERED` in which the human gets 0 (epdms)."""
    previous: Tensor
    """(S,) int64 the scene half a second before, -1 where it is not among these (epdms)."""
    shifts: tuple[int, ...]
    """Gaps between frames that are looked for, in steps of 0.1 s: 0.5 s and what occurs among these
    scenes.
    """

    @staticmethod
    def from_worlds(
        worlds: Sequence[World], device: str | torch.device = "cpu", *, metric: Metric = "pdms"
    ) -> TorchWorlds:
        """Prepare S scenes, invalid ones among them too. About 1 MB a scene on the device."""
        if not worlds:
            raise DataError("there are no worlds to prepare; give at least one scene")
        device = _checked(torch.device(device))
        reasons = tuple(
            usable(w, np.zeros((1, PLAN_STEPS, 3)), metric == "pdms")[1][0] for w in worlds
        )
        with torch.no_grad():
            tables = tables_of(worlds, metric, device)
            standard, forgiven = _yardsticks(worlds, tables, metric)
        previous, shifts = pairs_of(worlds)
        tokens = tuple(w.scene_token for w in worlds)
        return TorchWorlds(
            metric, tokens, reasons, tables, standard, forgiven, previous.to(device), shifts
        )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def device(self) -> torch.device:
        return self.standard.device

    @property
    def nbytes(self) -> int:
        """Memory of the prepared columns on the device."""
        return sum(t.numel() * t.element_size() for t in tensors_of(self.tables))

    def index(self, tokens: Sequence[str]) -> Tensor:
        """(n,) int64 numbers of scenes by token. Raises DataError naming all that are not prepared."""
        place = {token: s for s, token in enumerate(self.tokens)}
        unknown = [token for token in tokens if token not in place]
        if unknown:
            raise DataError(
                f"{len(unknown)} scenes are not prepared, among them {unknown[:3]}; add their worlds"
            )
        return torch.tensor(
            [place[token] for token in tokens], dtype=torch.long, device=self.device
        )

    @torch.no_grad()
    def score(
        self,
        poses: Tensor,
        scenes: Tensor | None = None,
        *,
        previous: Tensor | None = None,
        previous_scenes: Tensor | None = None,
        human_filter: bool = True,
        chunk: int | None = None,
    ) -> TorchScores:
        """Score plans. No gradient flows through a score: it is a reward.

        Args:
            poses: (..., 8, 3) rear-axle poses x, y (m), yaw (rad) in the ego frame, 0.5 s apart,
            without now.
            scenes: scene numbers, of the shape of the first dimensions of (...); None: poses are
            (S, ..., 8, 3).
            previous: (..., 8, 3) what the same planner said in the frame before, in that frame's
            ego frame: two-frame
                comfort of epdms. None, or no such frame: it is left out with its weight, as in the
                devkit.
            previous_scenes: scene numbers of those frames, of the shape of `scenes`; None:
            `self.previous`.
            human_filter: epdms: a sub-score in which the human gets 0 is 1 for every plan.
            chunk: plans at once, which bounds memory (about 150 kB each on typical scenes); None:
            `CHUNK`.
        Raises:
            DataError: shapes do not fit together.
        """
        lead = _lead(poses, "poses")
        scene = self._scene_of(scenes, lead)
        before = self._before(lead, scene, previous, previous_scenes)
        flat = poses.to(self.device, torch.float64).reshape(-1, PLAN_STEPS, 3)
        reason = self._reason(flat, scene)
        good = reason == Reason.SCORED
        flat, place = flat.where(good[:, None, None], 0.0), scene.clamp(0, len(self) - 1)
        size = max(1, chunk or CHUNK.get(self.device.type, 1024))
        parts = []
        for i in range(0, max(len(flat), 1), size):
            own = slice(i, i + size)
            pair = None if before is None else (before[0][own], before[1][own])
            parts.append(self._score(flat[own], place[own], pair, human_filter))
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        columns = {name: x.where(good, torch.nan).reshape(lead) for name, x in columns.items()}
        version = METRIC_VERSIONS[self.metric]
        return TorchScores(self.metric, version, columns, good.reshape(lead), reason.reshape(lead))

    @torch.no_grad()
    def drive(self, poses: Tensor, scenes: Tensor | None = None) -> Tensor:
        """(..., 41, 11) states that plans (..., 8, 3) are driven to, all at once; see `score`."""
        lead = _lead(poses, "poses")
        flat = poses.to(self.device, torch.float64).reshape(-1, PLAN_STEPS, 3)
        return self._drive(flat, self._scene_of(scenes, lead).clamp(0, len(self) - 1)).reshape(
            *lead, -1, 11
        )

    def _scene_of(self, scenes: Tensor | None, lead: torch.Size) -> Tensor:
        """(B,) int64 scene of each plan of leading dimensions `lead`."""
        if scenes is None:
            if not lead or lead[0] != len(self):
                raise DataError(
                    f"poses are for {tuple(lead)} plans of {len(self)} scenes; give ({len(self)}, ..., 8, 3) or scenes"
                )
            scenes = torch.arange(len(self), device=self.device)
        if lead[: scenes.dim()] != scenes.shape:
            raise DataError(
                f"scenes have shape {tuple(scenes.shape)}; needs the first dimensions of {tuple(lead)}"
            )
        wide = scenes.to(self.device, torch.long).reshape(
            (*scenes.shape, *[1] * (len(lead) - scenes.dim()))
        )
        return wide.expand(lead).reshape(-1)

    def _before(
        self, lead: torch.Size, scene: Tensor, previous: Tensor | None, scenes: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Plans (B, 8, 3) of the frame before and their scenes (B,), -1 = none."""
        if previous is None:
            return None
        if self.metric != "epdms":
            raise DataError(
                "pdms (v1.1) has no two-frame comfort; leave out `previous` or prepare metric='epdms'"
            )
        if _lead(previous, "previous") != lead:
            raise DataError(
                f"previous has shape {tuple(previous.shape)}; needs that of poses, {(*lead, PLAN_STEPS, 3)}"
            )
        known = (scene >= 0) & (scene < len(self))
        its = (
            self.previous[scene.clamp(0, len(self) - 1)]
            if scenes is None
            else self._scene_of(scenes, lead)
        )
        flat = previous.to(self.device, torch.float64).reshape(-1, PLAN_STEPS, 3)
        usable_too = self._reason(flat, its) == Reason.SCORED
        return flat.where(usable_too[:, None, None], 0.0), torch.where(known & usable_too, its, -1)

    def _reason(self, flat: Tensor, scene: Tensor) -> Tensor:
        """(B,) int8 `Reason` of plans (B, 8, 3)."""
        known = (scene >= 0) & (scene < len(self))
        out = torch.zeros(len(flat), dtype=torch.int8, device=self.device)
        out = torch.where((flat.abs() < MAX_POSE).flatten(1).all(1), out, int(Reason.FAR))
        out = torch.where(flat.isfinite().flatten(1).all(1), out, int(Reason.NOT_FINITE))
        fit = self.tables.usable[scene.clamp(0, len(self) - 1)]
        out = torch.where(fit, out, int(Reason.SCENE))
        return torch.where(known, out, int(Reason.UNKNOWN_SCENE)).to(torch.int8)

    def _drive(self, poses: Tensor, scene: Tensor) -> Tensor:
        """(B, 41, 11) driven states."""
        ego = self.tables.ego[scene]
        return simulate(reference_states(poses, ego, *(x[scene] for x in self.tables.times)), ego)

    def _score(
        self, poses: Tensor, scene: Tensor, before: tuple[Tensor, Tensor] | None, human_filter: bool
    ) -> dict[str, Tensor]:
        """(B,) sub-scores and score of plans (B, 8, 3) in scenes (B,)."""
        states = self._drive(poses, scene)
        columns, driven = measure(states, scene, self.tables, self.metric)
        columns["ego_progress"] = _progress(columns, driven, self.standard[scene], self.metric)
        if self.metric == "pdms":
            columns["comfort"] = comfort_v1(states)
            return _combined(columns, aggregate.MULTIPLIERS_V1, aggregate.WEIGHTS_V1, self.metric)
        columns["history_comfort"] = comfort_v2(states, scene, self.tables.past)
        columns[EXTENDED] = self._extended(states, scene, before)
        if human_filter:
            forgiven = self.forgiven[scene].unbind(1)
            columns |= {
                n: columns[n].masked_fill(skip, 1.0)
                for n, skip in zip(FILTERED, forgiven, strict=True)
            }
        return _combined(columns, aggregate.MULTIPLIERS_V2, aggregate.WEIGHTS_V2, self.metric)

    def _extended(
        self, states: Tensor, scene: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """EC (B,), NaN without a frame before."""
        if before is None:
            return torch.full_like(states[:, 0, 0], torch.nan)
        plans, its = before
        there = its.clamp(0)
        gap_us = (self.tables.time_us[scene] - self.tables.time_us[there]).to(
            states
        )  # integer · 1e-6 would be float32
        gap_s = gap_us * 1e-6
        return two_frame(
            self._drive(plans, there), states, gap_s.where(its >= 0, torch.nan), self.shifts
        )


def _lead(poses: Tensor, name: str) -> torch.Size:
    """Leading dimensions of plans (..., 8, 3)."""
    if poses.dim() < 2 or poses.shape[-2:] != (PLAN_STEPS, 3):
        text = f"{PLAN_STEPS} poses x_m, y_m, yaw_rad, 0.5 s apart, without now"
        raise DataError(
            f"{name} have shape {tuple(poses.shape)}; needs (..., {PLAN_STEPS}, 3): {text}"
        )
    return poses.shape[:-2]


def measure(
    states: Tensor, scene: Tensor, tables: Tables, metric: str
) -> tuple[dict[str, Tensor], Tensor]:
    """Sub-scores (B,) of states (B, 41, 11) that need no comparison, and metres driven along the
    centre line (B,).
    """
    size = PIECE.get(states.device.type, len(states)) or 1
    parts = [
        _measure(*part, tables, metric)
        for part in zip(states.split(size), scene.split(size), strict=True)
    ]
    columns = {name: torch.cat([part[0][name] for part in parts]) for name in parts[0][0]}
    return columns, torch.cat([part[1] for part in parts])


def _measure(
    states: Tensor, scene: Tensor, tables: Tables, metric: str
) -> tuple[dict[str, Tensor], Tensor]:
    motion, late = motion_of(states), metric == "epdms"
    lanes, off_road, oncoming, crossing, rear_crossing = area_flags(motion, scene, tables.roads)
    last = TTC_LAST_STEP_V2 if late else TTC_LAST_STEP_V1
    contact, clear = collisions(
        motion, lanes | off_road, rear_crossing, scene, tables.objects, last
    )
    columns = {
        "no_at_fault_collisions": contact,
        "drivable_area_compliance": (~off_road.any(1)).to(motion),
        "driving_direction_compliance": driving_direction(
            motion, oncoming & ~crossing if late else oncoming
        ),
        "time_to_collision_within_bound": clear,
    }
    if late:
        columns["traffic_light_compliance"] = traffic_lights(motion, scene, tables.lights)
        columns["lane_keeping"] = lane_keeping(motion, crossing, scene, tables.line)
    pieces = tables.line.pieces[scene]
    return columns, (line_progress(motion[:, -1, 2:4], pieces) - tables.began_m[scene]).clamp(
        min=0.0
    )


def _product(columns: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([columns[name] for name in names]).prod(0)


def _progress(columns: dict[str, Tensor], driven: Tensor, standard: Tensor, metric: str) -> Tensor:
    """EP (B,) of metres driven (B,), measured against the better of reference (B,) and plan."""
    product = _product(
        columns, aggregate.MULTIPLIERS_V1 if metric == "pdms" else aggregate.MULTIPLIERS_V2
    )
    masked = driven * product
    best = torch.maximum(masked, standard)
    share = (masked if metric == "pdms" else driven) / best.clamp(min=MIN_REFERENCE_M)
    easy = (product > 0).to(driven) if metric == "pdms" else torch.ones_like(driven)
    return torch.where(best > MIN_REFERENCE_M, share.clamp(0.0, 1.0), easy)


def _combined(
    columns: dict[str, Tensor], factors: Sequence[str], weights: dict[str, float], metric: str
) -> dict[str, Tensor]:
    """The columns in their published order, and the score; EC leaves with its weight where it is
    NaN.
    """
    total, weight = (
        torch.zeros_like(columns["ego_progress"]),
        torch.zeros_like(columns["ego_progress"]),
    )
    for name, share in weights.items():
        known = (
            columns[name].isfinite()
            if name == EXTENDED
            else torch.ones_like(total, dtype=torch.bool)
        )
        total = total + torch.where(known, share * columns[name], 0.0)
        weight = weight + torch.where(known, share, 0.0)
    score = _product(columns, factors) * total / weight
    return {name: columns[name] for name in SUB_SCORES[metric]} | {"score": score}


# ---------------------------------------------------------------- preparation


def _checked(device: torch.device) -> torch.device:
    if device.type == "mps":
        raise DataError("the score needs float64, which mps does not have; use cpu or cuda")
    return device


def _yardsticks(worlds: Sequence[World], tables: Tables, metric: str) -> tuple[Tensor, Tensor]:
    """(S,) masked progress of the reference, (S, 6) bool where the human fails."""
    device, late = tables.ego.device, metric == "epdms"
    scene = torch.arange(len(worlds), device=device)
    references = [w.reference_v2 if late else w.reference_v1 for w in worlds]
    known = [
        tracker.reference_from_tenths(np.nan_to_num(r), w.timestamp_us)
        for r, w in zip(references, worlds, strict=True)
    ]
    states = simulate(torch.tensor(np.stack(known), device=device), tables.ego)
    columns, driven = measure(states, scene, tables, metric)
    standard = driven * _product(
        columns, aggregate.MULTIPLIERS_V2 if late else aggregate.MULTIPLIERS_V1
    )
    forgiven = torch.zeros(len(worlds), len(FILTERED), dtype=torch.bool, device=device)
    if late:
        has = torch.tensor(
            [w.valid and w.human_valid and not w.is_synthetic for w in worlds], device=device
        )
        plans = torch.tensor(
            np.stack([np.nan_to_num(w.human_poses) for w in worlds]), device=device
        )
        states = simulate(reference_states(plans, tables.ego, *tables.times), tables.ego)
        human, _ = measure(states, scene, tables, metric)
        forgiven = torch.stack([human[name] == 0.0 for name in FILTERED], dim=1) & has[:, None]
    return torch.where(tables.usable, standard, 0.0), forgiven
