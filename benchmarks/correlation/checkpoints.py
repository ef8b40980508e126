"""Who is judged: small planners of one world at several lengths, what learned from the score, floors,
and whatever folders are given beside them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.rl import Part, read
from latentvla_core.closed_loop.drivers.baselines import FLOORS
from latentvla_core.errors import SetupError
from latentvla_core.planner.baselines import EgoStatusConfig, train_ego_status
from latentvla_core.planner.config import PlannerTrainConfig
from latentvla_core.planner.model import build_planner, load, save
from latentvla_core.planner.train import train_planner
from latentvla_core.rl.config import RlConfig
from latentvla_core.rl.train import train_rl
from latentvla_core.training.config import with_training

Kind = Literal["imitation", "rl", "blind", "fused", "floor"]
KINDS: tuple[Kind, ...] = ("imitation", "rl", "blind", "fused", "floor")
HOSTS = ("transfuser", "ipad", "flow")
BLIND = "ego_status_mlp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A planner at one point of its life."""

    name: str
    kind: Kind
    host: str
    steps: int = 0
    """Optimiser steps, those of its parent not counted."""
    seed: int = 0
    recipe: str = ""
    """rl: which configuration of `RlConfig`."""
    parent: str = ""
    """rl: whose weights it started from."""
    folder: str = ""
    """Given ones: where it lies."""
    features: str = ""
    """Fused ones: folder of the VLM or student that it reads."""

    @property
    def is_floor(self) -> bool:
        return self.kind == "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """How many checkpoints, and how long they learn."""

    lengths: tuple[int, ...] = (50, 150, 400)
    seeds: int = 2
    longer: tuple[tuple[str, int], ...] = (("transfuser", 1200), ("ipad", 1200))
    """(host, steps) of one seed more: who drives better than the others."""
    rl_from: int = 400
    """Length of the imitation that learning from the score starts from."""
    rl: tuple[tuple[str, str, int], ...] = (
        ("transfuser", "one_plan", 60),
        ("transfuser", "one_plan", 200),
        ("transfuser", "cloned", 200),
    )
    """(host, configuration of `RlConfig`, steps); cloned learns nothing from the score."""

    def checkpoints(self) -> list[Checkpoint]:
        """Parents before their children; floors last."""
        found = [*self._imitated(), *self._blind(), *self._rewarded()]
        return found + [Checkpoint(name=n, kind="floor", host="") for n in FLOORS]

    def _imitated(self) -> Iterator[Checkpoint]:
        plan = [
            (host, steps, seed)
            for seed in range(self.seeds)
            for host in HOSTS
            for steps in self.lengths
        ]
        for host, steps, seed in plan + [(host, steps, 0) for host, steps in self.longer]:
            name = f"{host}-{steps}-{seed}"
            yield Checkpoint(name=name, kind="imitation", host=host, steps=steps, seed=seed)

    def _blind(self) -> Iterator[Checkpoint]:
        for steps in (self.lengths[0], self.lengths[-1]):
            yield Checkpoint(name=f"{BLIND}-{steps}-0", kind="blind", host=BLIND, steps=steps)

    def _rewarded(self) -> Iterator[Checkpoint]:
        for seed in range(self.seeds):
            for host, recipe, steps in self.rl:
                parent = f"{host}-{self.rl_from}-{seed}"
                kind: Kind = "imitation" if recipe == "cloned" else "rl"
                yield Checkpoint(
                    name=f"{parent}-{recipe}-{steps}", kind=kind, host=host, steps=steps,
                    seed=seed, recipe=recipe, parent=parent,
                )  # fmt: skip


def given(text: str) -> Checkpoint:
    """The checkpoint of KIND:NAME=FOLDER[,FEATURES]; RL ones may name their parent:
    rl:NAME<PARENT=FOLDER.
    """
    kind, _, rest = text.partition(":")
    name, _, folders = rest.partition("=")
    if kind not in KINDS or not name or not folders:
        raise SetupError(
            f"--also is {text!r}; write KIND:NAME=FOLDER[,FEATURES] with a KIND of "
            f"{', '.join(KINDS)}"
        )
    folder, _, features = folders.partition(",")
    name, _, parent = name.partition("<")
    host = str(getattr(load(folder), "name", ""))
    return Checkpoint(
        name=name, kind=kind, host=host, parent=parent, folder=folder, features=features
    )  # type: ignore[arg-type]


def make(checkpoint: Checkpoint, taught: Part, planners: Path) -> float:
    """Trains and saves what is not there yet; CPU seconds spent."""
    if checkpoint.is_floor or checkpoint.folder or (planners / checkpoint.name).exists():
        return 0.0
    began = time.process_time()
    save(_trained(checkpoint, taught, planners), planners / f".{checkpoint.name}")
    (planners / f".{checkpoint.name}").replace(planners / checkpoint.name)
    return time.process_time() - began


def _trained(checkpoint: Checkpoint, taught: Part, planners: Path) -> Any:
    knobs = {"seed": checkpoint.seed, "steps": checkpoint.steps}
    if checkpoint.kind == "blind":
        return train_ego_status(taught.records, with_training(EgoStatusConfig(), **knobs))[0]
    if checkpoint.parent:
        planner = copy.deepcopy(load(planners / checkpoint.parent))
        config = with_training(getattr(RlConfig, checkpoint.recipe)(), **knobs)
        train_rl(planner, taught.records, taught.worlds, config)
        return planner
    planner = build_planner(checkpoint.host, seed=checkpoint.seed)
    config = with_training(PlannerTrainConfig(), **knobs)
    choosing = replace(config.choosing, min_steps=300)
    config = replace(config, choosing=with_training(choosing, epochs=8.0))
    train_planner(planner, taught.records, config, worlds=taught.worlds)
    return planner


def make_all(checkpoints: Sequence[Checkpoint], root: Path, planners: Path) -> None:
    """Every training that is missing, in order."""
    planners.mkdir(parents=True, exist_ok=True)
    missing = [
        c for c in checkpoints
        if not (c.is_floor or c.folder or (planners / c.name).exists())
    ]  # fmt: skip
    if not missing:
        return
    taught = read(root, "trainval")
    for checkpoint in missing:
        spent = make(checkpoint, taught, planners)
        print(f"{checkpoint.name}: trained in {spent:.0f} CPU-s", flush=True)
