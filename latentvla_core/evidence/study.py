"""Runs of the study: one (variant, seed, number of labelled logs) → rows of what it drove.

Arms of a seed and number share their menu, so its plans are scored once. Rows are means over the
scenes of one log and situation: small enough to keep, fine enough for every interval and table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from latentvla_core.evidence.menu import (
    SUB_SCORES,
    MenuConfig,
    choose,
    train_proposer,
    train_scorer,
)
from latentvla_core.evidence.scenes import Scenes, labelled_rows
from latentvla_core.evidence.scores import MenuScores, score_menu
from latentvla_core.evidence.teacher import TeacherConfig
from latentvla_core.evidence.told import Told
from latentvla_core.evidence.variants import VARIANTS, Variant, variant
from latentvla_core.pdms.world import World
from latentvla_core.training.config import with_training
from latentvla_core.types import FRAME_INTERVAL_S, PLAN_STEPS, Array

FLOORS = ("mlp", "constant_velocity", "human")
"""Plans behind the K proposals of a menu, in this order."""
JUDGED = ("val", "test", "test_towns")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """What is compared, on how much, how often. Defaults are the published study's."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Arms, of `variants.VARIANTS`."""
    labelled: tuple[int, ...] = (20, 76, 200)
    """Numbers of labelled logs."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of everything that is trained, the latent model included."""
    menu: MenuConfig = field(default_factory=MenuConfig)
    """Proposals and scorer."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Teachers and students."""

    def __post_init__(self) -> None:
        for name in self.variants:
            variant(name)


@dataclass(frozen=True, slots=True)
class Menu:
    """Plans of one seed and number of labelled logs, scored."""

    labelled: int
    rows: Array
    """(n,) scenes it was trained on."""
    plans: Array
    """(N, K + 3, 8, 3): proposals, then `FLOORS`."""
    scores: MenuScores

    @property
    def proposals(self) -> int:
        return self.plans.shape[1] - len(FLOORS)


def plans_of(scenes: Scenes, rows: Array, config: MenuConfig) -> Array:
    """(N, K + 3, 8, 3) of networks trained on `rows`; floors behind the proposals."""
    ego, path = scenes.ego[rows], scenes.path[rows]
    parts = []
    for count in (config.proposals, 1):
        model = train_proposer(ego, path, config, count)
        with torch.no_grad():
            parts.append(model(torch.from_numpy(scenes.ego)).numpy())
    parts += [straight_on(scenes.ego)[:, None], scenes.path[:, None]]
    return np.concatenate(parts, 1).astype(np.float32)


def straight_on(ego: Array) -> Array:
    """(N, 17) → (N, 8, 3): at the present speed."""
    speed = np.hypot(ego[:, 4], ego[:, 5])
    path = np.zeros((len(ego), PLAN_STEPS, 3), np.float32)
    path[..., 0] = speed[:, None] * np.arange(1, PLAN_STEPS + 1) * FRAME_INTERVAL_S
    return path


def make_menu(scenes: Scenes, worlds: Sequence[World], labelled: int, config: MenuConfig) -> Menu:
    """Trains the proposals on `labelled` logs and scores them everywhere."""
    rows = labelled_rows(scenes, labelled)
    plans = plans_of(scenes, rows, config)
    with_v2 = np.isin(scenes.roles, JUDGED)
    return Menu(labelled, rows, plans, score_menu(worlds, plans, with_v2))


def run_variant(
    name: str, scenes: Scenes, menu: Menu, told: Told, config: MenuConfig
) -> list[dict[str, Any]]:
    """Rows of one arm. An arm whose source was refused gives none."""
    arm = variant(name)
    if any(source in told.refused for source in (*arm.told, *dict(arm.swaps).values())):
        return []
    chosen = _chosen(arm, scenes, menu, told, config)
    key = {"variant": name, "seed": config.training.seed, "labelled": menu.labelled}
    return [key | row for row in rows_of(scenes, menu, chosen)]


def _chosen(arm: Variant, scenes: Scenes, menu: Menu, told: Told, config: MenuConfig) -> Array:
    """(N,) plan of each scene."""
    count = menu.proposals
    if arm.kind in FLOORS:
        return np.full(len(scenes), count + FLOORS.index(arm.kind))
    if arm.kind == "best_of_menu":
        return np.nan_to_num(menu.scores.pdms[:, :count], nan=-1.0).argmax(1)
    rows = menu.rows
    if arm.has_more_labels:
        rows = np.concatenate([rows, scenes.of_role("unlabelled")])
    given = {source: told.sources[source] for source in arm.told}
    plans = menu.plans[:, :count]
    scorer = train_scorer(
        scenes.ego[rows],
        plans[rows],
        menu.scores.sub_scores[rows, :count],
        {source: values[rows] for source, values in given.items()},
        with_training(config, steps=config.training.steps * arm.length),
    )
    return choose(scorer, scenes.ego, plans, _heard(arm, given, told))


def _heard(arm: Variant, given: Mapping[str, Array], told: Told) -> Mapping[str, Array]:
    """What the scorer is told when it is judged, by the name it was told in training."""
    if not arm.answers:
        return {name: np.zeros_like(x) for name, x in given.items()}
    swaps = dict(arm.swaps)
    return {name: told.sources[swaps.get(name, name)] for name in given}


def rows_of(scenes: Scenes, menu: Menu, chosen: Array) -> Iterator[dict[str, Any]]:
    """One row per (role, log, situation) of the judged roles: counts and means."""
    at = np.arange(len(scenes))
    gaps = np.hypot(*np.moveaxis(menu.plans[..., :2] - scenes.path[:, None, :, :2], -1, 0))
    distances = gaps.mean(-1)  # (N, P)
    columns: dict[str, Array] = {
        "pdms": menu.scores.pdms[at, chosen],
        "epdms": menu.scores.epdms(chosen),
        "ade_m": distances[at, chosen],
        "min_ade_m": distances[:, : menu.proposals].min(1),
        "best_pdms": np.fmax.reduce(menu.scores.pdms[:, : menu.proposals], axis=1),
    }
    for k, name in enumerate(SUB_SCORES):
        columns[name] = menu.scores.sub_scores[at, chosen, k]
    judged = np.nonzero(np.isin(scenes.roles, JUDGED) & np.isfinite(columns["pdms"]))[0]
    keys = np.char.add(np.char.add(scenes.logs[judged], "|"), scenes.situations[judged])
    names, where = np.unique(keys, return_inverse=True)
    for k, key in enumerate(names):
        rows = judged[where == k]
        log, _, situation = str(key).rpartition("|")
        means = {name: float(np.nanmean(values[rows])) for name, values in columns.items()}
        yield {
            "role": str(scenes.roles[rows[0]]),
            "log_name": log,
            "situation": situation,
            "scenes": len(rows),
        } | means


def living(menu: Menu, scenes: Scenes, least: float = 0.01) -> int:
    """Proposals that are the nearest one in at least 1 % of the judged scenes."""
    rows = np.isin(scenes.roles, JUDGED)
    gaps = np.abs(menu.plans[rows, : menu.proposals] - scenes.path[rows, None]).sum((-1, -2))
    shares = np.bincount(gaps.argmin(1), minlength=menu.proposals) / rows.sum()
    return int((shares >= least).sum())


def quality_rows(seed: int, told: Told) -> list[dict[str, Any]]:
    """What each teacher knows on val logs; rows for the table of teachers."""
    found = []
    for name, q in told.quality.items():
        found.append(
            {"seed": seed, "teacher": name, "loss": q.loss, "blind_loss": q.blind_loss}
            | {"marginal_loss": q.marginal_loss, "accuracy": q.accuracy}
            | {"blind_accuracy": q.blind_accuracy, "marginal_accuracy": q.marginal_accuracy}
            | {"gain": q.gain.mean, "gain_low": q.gain.low, "gain_high": q.gain.high}
            | {"is_handed_on": q.is_handed_on, "refused": told.refused.get(name, "")}
        )
    return found


def run_seed(
    scenes: Scenes,
    worlds: Sequence[World],
    told: Told,
    seed: int,
    config: StudyConfig,
    done: Mapping[tuple[str, int, int], Any] | None = None,
) -> Iterator[tuple[tuple[str, int, int], list[dict[str, Any]]]]:
    """((variant, seed, labelled), rows) of every arm of a seed that is not `done` yet."""
    menu_config = with_training(config.menu, seed=seed)
    for labelled in config.labelled:
        keys = [(name, seed, labelled) for name in config.variants]
        left = [key for key in keys if key not in (done or {})]
        if not left:
            continue
        menu = make_menu(scenes, worlds, labelled, menu_config)
        for key in left:
            yield key, run_variant(key[0], scenes, menu, told, menu_config)
