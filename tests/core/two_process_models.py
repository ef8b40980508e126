"""One of two gloo processes that train our own models: run by test_training_devices_models.py.

Every training has two backward passes a step, so that two processes do the passes that one process
does one after the other; batch statistics of a pass are then the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vlm_worlds
from planner_factory import make_records, straight_world

from latentvla_core.distill.config import StudentConfig
from latentvla_core.planner.hosts.registry import host_of
from latentvla_core.planner.model import build_planner
from latentvla_core.planner.train import PlannerTrainConfig, train_planner
from latentvla_core.training.config import with_training
from latentvla_core.training.devices.group import Launch, launched, rank
from latentvla_core.training.sinks import ListSink
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.features import empty

STEPS = 3
KNOBS: dict[str, Any] = {
    "steps": STEPS, "epochs": 0, "batch_size": 2, "accumulate": 2, "log_every": 1,
    "checkpoint_every": 1, "precision": "fp32",
}  # fmt: skip
Train = Callable[..., ListSink]


def vlm(folder: Path, **kwargs: Any) -> ListSink:
    from latentvla_core.vlm.samples import build_samples
    from latentvla_core.vlm.train import train_vlm

    records, codes = vlm_worlds.scenes(8, folder / "vlm")
    config, sink = with_training(VlmConfig.debug(), **KNOBS), ListSink()
    train_vlm(build_samples(records, codes, config), config, sink=sink, **kwargs)
    return sink


def student(folder: Path, **kwargs: Any) -> ListSink:
    from latentvla_core.distill.train import train_student

    records, codes = vlm_worlds.scenes(8, folder / "vlm")
    config, sink = with_training(StudentConfig.debug(), **KNOBS), ListSink()
    rng = np.random.default_rng(0)
    said = empty(
        [r.scene_token for r in records], config.num_visual_tokens, config.feature_width, ""
    )
    for values in (said.visual, said.action, said.logits):
        values[:] = rng.normal(size=values.shape)
    said.codes[:], said.valid[:] = codes, True
    train_student(records, codes, said, config, sink=sink, **kwargs)
    return sink


def host(name: str) -> Train:
    def train(folder: Path, **kwargs: Any) -> ListSink:
        records = make_records(folder / "planner", 8)
        sink, size = ListSink(), host_of(name).config.debug()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            planner = build_planner(name, size)
        train_planner(
            planner, records, with_training(PlannerTrainConfig.debug(), **KNOBS), sink=sink,
            worlds=[straight_world(r) for r in records], **kwargs,
        )  # fmt: skip
        return sink

    return train


MODELS: Mapping[str, Train] = {
    "vlm": vlm, "student": student, "transfuser": host("transfuser"), "ipad": host("ipad"),
}  # fmt: skip


def losses(sink: ListSink) -> list[float]:
    return [float(value) for value in sink.series("loss")][:STEPS]


def main(folder: Path) -> None:
    """Each model by both processes, and on from a checkpoint that one process left."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    own = folder / f"pictures_{rank()}"  # two processes do not draw one file
    for name, train in MODELS.items():
        with launched(Launch()):
            found[name] = losses(train(own))
            found[f"{name} resumed"] = losses(train(own, checkpoint_dir=folder / f"by_one_{name}"))
            train(own, checkpoint_dir=folder / f"by_two_{name}", until=1)
    if rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))


def start_two(folder: Path) -> dict[str, list[float]]:
    """Both processes run `main` with this folder; what the first one found."""
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        __file__, str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "found.json").read_text())


if __name__ == "__main__":
    from torch import distributed as dist

    dist.init_process_group("gloo")
    main(Path(sys.argv[1]))
    dist.destroy_process_group()
