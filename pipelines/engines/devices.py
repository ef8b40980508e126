"""A training on many devices: torchrun starts a process for each, all run the stage, and the model
of the first one counts.

No Dagster in here: `start` is how the processes are started and where their lines go.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentvla_core.errors import LatentVLAError
from pipelines.engines.unit import STAGES_AT, stages_at
from pipelines.engines.worker import portable
from pipelines.settings import Settings
from pipelines.steps.context import Model
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage

Say = Callable[[str], None]
Start = Callable[[Sequence[str], Say], None]
"""(command, where its lines go): returns when the command has ended, however it ended."""
EVERY_S = 10.0  # between two lines of progress
ORDER, MODEL, FAULT = "launch.pickle", "model.pickle", "fault.pickle"


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One training, for processes that know nothing yet."""

    settings: Settings
    stage: str
    inputs: Mapping[str, int]
    folder: str
    stages: str = STAGES_AT


def plain(command: Sequence[str], say: Say) -> None:
    """As a child whose lines are said as they come."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    for line in process.stdout:
        say(line.rstrip())
    process.wait()


def trainer_of(
    engine: Engine, start: Start = plain, stages: str = STAGES_AT
) -> Callable[[Stage, Mapping[str, int], Path], Model] | None:
    """What trains a stage on the devices of the settings; None where there is one."""
    if engine.settings.devices == 1:
        return None

    def train(stage: Stage, inputs: Mapping[str, int], folder: Path) -> Model:
        order = Order(
            settings=engine.settings, stage=stage.name, inputs=dict(inputs), folder=str(folder),
            stages=stages,
        )  # fmt: skip
        return on_devices(order, start, engine.say)

    return train


def on_devices(order: Order, start: Start, say: Say) -> Model:
    """The model, its weights in the order's folder. Raises what a process raised."""
    folder, count = Path(order.folder), order.settings.devices
    for name in (MODEL, FAULT):
        (folder / name).unlink(missing_ok=True)
    (folder / ORDER).write_bytes(pickle.dumps(order))
    say(f"{order.stage}: {count} processes, {order.settings.spread}")
    start(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={count}", "-m", "pipelines.engines.device", str(folder / ORDER)),
        ],
        say,
    )
    if (folder / FAULT).is_file():
        raise pickle.loads((folder / FAULT).read_bytes())
    if not (folder / MODEL).is_file():
        raise LatentVLAError(
            f"{order.stage}: its {count} processes ended without a word, as for lack of memory;"
            " run again to go on from the last checkpoint, with fewer LATENTVLA_DEVICES or a"
            " smaller batch"
        )
    model = pickle.loads((folder / MODEL).read_bytes())
    for name in (ORDER, MODEL):
        (folder / name).unlink()
    return model


class Lines:
    """A sink that says a line of numbers every ten seconds."""

    def __init__(self, say: Say, title: str) -> None:
        self.say, self.title, self.last_s = say, title, 0.0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if time.monotonic() - self.last_s >= EVERY_S:
            self.last_s = time.monotonic()
            told = "  ".join(f"{name} {value:.4g}" for name, value in list(metrics.items())[:4])
            self.say(f"{self.title} step {step}  {told}")


def train_here(order: Order, say: Say) -> None:
    """What every process does, inside torchrun. The others work in a folder of nobody's and log
    nothing.
    """
    from latentvla_core.training.devices.group import Launch, launched, rank

    stages = stages_at(order.stages)
    engine = Engine(order.settings, stages, say)
    spread: Any = order.settings.spread  # the settings have checked it
    launch = Launch(strategy=spread, compile=os.environ.get("LATENTVLA_COMPILE") == "1")
    with launched(launch, engine.device), tempfile.TemporaryDirectory() as nobodys:
        first = rank() == 0
        context = engine.as_of(stages[order.stage], order.inputs)
        context.sinks = [Lines(say, order.stage)] if first else None
        folder = Path(order.folder)
        try:
            model = stages[order.stage].run(context, folder if first else Path(nobodys))
        except Exception as error:
            _leave(folder / FAULT, portable(error))
            raise
        if first:
            _leave(folder / MODEL, model)


def _leave(path: Path, content: Any) -> None:
    """Whole or not at all; of several faults one stays."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_bytes(pickle.dumps(content))
    partial.rename(path)
