"""How long a model takes to answer for one scene, measured where it was trained."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.viz.report.card import Latency

if TYPE_CHECKING:
    from latentvla_core.types import SceneRecord

RUNS = 12
MOST_S = 5.0  # a model that takes seconds a scene is measured fewer times
MEDIAN, SLOWEST, COUNT = "latency/median_ms", "latency/slowest_ms", "latency/runs"
MACHINE = "latency_machine"
"""Tag of the run."""


def latency_of(folder: Path, parts: Mapping[str, str], records: Sequence[SceneRecord]) -> Latency:
    """Milliseconds from a scene's record to codes or plan on the CPU, as MLflow serves it, with its
    pictures read and decoded and the features that a fused planner needs made. The first answer,
    which loads things, is left out.
    """
    answer = _answering(folder, parts)
    answer(records[0])
    taken: list[float] = []
    while len(taken) < RUNS and sum(taken) < MOST_S:
        started = time.perf_counter()
        answer(records[len(taken) % len(records)])
        taken.append(time.perf_counter() - started)
    ms = np.array(taken) * 1e3
    return Latency(float(np.median(ms)), float(ms.max()), len(taken), machine())


def _answering(folder: Path, parts: Mapping[str, str]) -> Callable[[Any], Any]:
    """What answers for one scene; as the served model does (`model_code.py`)."""
    from latentvla_core.planner.plan import plan
    from pipelines.registry.model_code import codes_of, features_of, load_family

    family = _family(folder)
    model = load_family(family, folder)
    if family != "planner":
        return lambda record: codes_of(family, model, [record])
    made = parts.get("features")
    source = (_family(Path(made)), load_family(_family(Path(made)), Path(made))) if made else None

    def answer(record: Any) -> Any:
        features = features_of(*source, [record]) if source else None
        return plan(model, [record], features)

    return answer


def _family(folder: Path) -> str:
    return str(json.loads((folder / "summary.json").read_text())["family"])


def machine() -> str:
    """The processor and the threads that were used."""
    import torch

    return f"{cpu_name()}, {torch.get_num_threads()} thread(s)"


def cpu_name(path: Path = Path("/proc/cpuinfo")) -> str:
    """As the kernel names it; "CPU" where it does not."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else "CPU"


def figures_of(latency: Latency) -> dict[str, float]:
    """As metrics of an MLflow run."""
    return {
        MEDIAN: latency.median_ms,
        SLOWEST: latency.slowest_ms,
        COUNT: float(latency.runs),
    }


def latency_ms_of(client: Any, name: str, version: str) -> float:
    """Median milliseconds a scene of a registered version; NaN where it was not measured."""
    run = client.get_run(client.get_model_version(name, version).run_id)
    return float(run.data.metrics.get(MEDIAN, np.nan))


def recalled(metrics: Mapping[str, float], tags: Mapping[str, str]) -> Latency | None:
    """`figures_of` backwards, from a run; None where it was not measured."""
    if MEDIAN not in metrics:
        return None
    runs = int(metrics.get(COUNT, 0))
    machine = tags.get(MACHINE, "an unknown machine")
    return Latency(metrics[MEDIAN], metrics.get(SLOWEST, np.nan), runs, machine)
