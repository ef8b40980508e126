"""What arms of a study share, kept in a folder: what is seen, codes, sources, menus. Each piece is
made when it is first asked for, so that a study that was stopped goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.evidence.config import EvidenceConfig
from latentvla_core.evidence.prepare import (
    Material,
    kept,
    latent_codes,
    look,
    sights_of,
)
from latentvla_core.evidence.scores import MenuScores
from latentvla_core.evidence.study import Menu, make_menu, quality_rows, run_variant
from latentvla_core.evidence.told import Told, tell
from latentvla_core.training.config import with_training
from latentvla_core.types import Array

SOURCE = "source/"


@dataclass(frozen=True)
class StudyFolder:
    """One study. `material` is called only when something has to be made or an arm is run."""

    path: Path
    config: EvidenceConfig
    read: Callable[[], Material]

    @cached_property
    def material(self) -> Material:
        return self.read()

    def teachers(self, seed: int) -> list[dict[str, Any]]:
        """Rows of what each teacher of a seed knows; makes what all arms share on the way."""
        rows = json.loads(str(self._stored(seed)["quality"]))
        for labelled in self.config.study.labelled:
            self.menu(seed, labelled)
        return rows

    def run(self, variant: str) -> list[dict[str, Any]]:
        """Rows of one arm, all seeds and numbers of labelled logs; [] where its source was refused."""
        rows = []
        for seed in self.config.study.seeds:
            told, config = self.told(seed), with_training(self.config.study.menu, seed=seed)
            for labelled in self.config.study.labelled:
                menu = self.menu(seed, labelled)
                rows += run_variant(variant, self.material.scenes, menu, told, config)
        return rows

    def told(self, seed: int) -> Told:
        """Sources of a seed; what its teachers know is in `teachers`."""
        stored = self._stored(seed)
        sources = {
            name.removeprefix(SOURCE): values
            for name, values in stored.items()
            if name.startswith(SOURCE)
        }
        return Told(sources, {}, json.loads(str(stored["refused"])))

    def _stored(self, seed: int) -> dict[str, Array]:
        return kept(self.path / f"told-{seed}.npz", lambda: self._tell(seed))

    def _tell(self, seed: int) -> dict[str, Array]:
        looked = kept(
            self.path / "looked.npz",
            lambda: look(self.material, self.config.eye, self.config.encoder),
        )
        codes = kept(self.path / f"codes-{seed}.npz", lambda: {"codes": self._codes(seed)})
        config = with_training(self.config.study.teacher, seed=seed)
        told = tell(self.material.scenes, sights_of(looked, codes["codes"]), config)
        return {f"{SOURCE}{name}": values for name, values in told.sources.items()} | {
            "quality": np.array(json.dumps(quality_rows(seed, told))),
            "refused": np.array(json.dumps(told.refused)),
        }

    def _codes(self, seed: int) -> Array:
        config = with_training(self.config.latent, seed=seed)
        return latent_codes(self.material, config, self.path / "latent" / str(seed))[0]

    def menu(self, seed: int, labelled: int) -> Menu:
        """Plans of a seed and number of labelled logs (0 = all), scored."""
        scenes, config = self.material.scenes, with_training(self.config.study.menu, seed=seed)
        count = labelled or len(set(scenes.logs[scenes.of_role("labelled")].tolist()))

        def make() -> dict[str, Array]:
            made = make_menu(scenes, self.material.worlds, count, config)
            scores = {f.name: getattr(made.scores, f.name) for f in fields(MenuScores)}
            return {"rows": made.rows, "plans": made.plans, **scores}

        stored = kept(self.path / f"menu-{seed}-{count}.npz", make)
        scores = MenuScores(*(stored[f.name] for f in fields(MenuScores)))
        return Menu(count, stored["rows"], stored["plans"], scores)
