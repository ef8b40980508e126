"""The study's own logs: the embedded world, split into roles that share no log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from latentvla_core.evidence.prepare import Log
from latentvla_core.world.write import Progress, WorldConfig, write_world


@dataclass(frozen=True, kw_only=True, slots=True)
class LogsConfig:
    """How many logs of each role, in which towns. Defaults are the published study's."""

    unlabelled: int = 200
    labelled: int = 200
    val: int = 40
    test: int = 112
    test_towns: int = 60
    """Logs of towns of another seed."""
    seed: int = 5
    """Towns of all roles but test_towns, whose towns have the next seed."""
    picture_wh: tuple[int, int] = (448, 252)
    """Front camera."""
    workers: int = 1

    def world(self, **counts: int) -> WorldConfig:
        return WorldConfig(
            seed=self.seed,
            cameras=("CAM_F0",),
            picture_wh=self.picture_wh,
            workers=self.workers,
            **counts,  # pyright: ignore[reportArgumentType]
        )


def write_logs(out: Path, config: LogsConfig, progress: Progress | None = None) -> list[Log]:
    """Two trees below `out`; a finished tree is left as it is. Logs of every role take turns over
    all kinds of scenario, so roles are balanced.
    """
    home = write_world(
        out / "home",
        config.world(
            logs_train=config.unlabelled + config.labelled,
            logs_val=config.val,
            logs_test=config.test,
        ),
        progress,
    )
    away = _next_towns(config).world(logs_train=1, logs_val=0, logs_test=config.test_towns)
    towns = write_world(out / "towns", away, progress)
    training = sorted(home.logs["train"])
    free, scored = training[: config.unlabelled], training[config.unlabelled :]
    return [
        *(Log(home.root, "trainval", name, "unlabelled") for name in free),
        *(Log(home.root, "trainval", name, "labelled") for name in scored),
        *(Log(home.root, "trainval", name, "val") for name in sorted(home.logs["val"])),
        *(Log(home.root, "test", name, "test") for name in sorted(home.logs["test"])),
        *(Log(towns.root, "test", name, "test_towns") for name in sorted(towns.logs["test"])),
    ]


def _next_towns(config: LogsConfig) -> LogsConfig:
    return replace(config, seed=config.seed + 1)
