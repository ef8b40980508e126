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
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vlm_worlds
from latent_little_world import little_records
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


class Stop(Exception):
    """In every process after a step, before it is kept."""


def latent(stage: int) -> Train:
    """One of the latent action model's stages. Codes start, follow, die and revive within the
    steps, and codes and motion are held together by running statistics.
    """

    def train(folder: Path, until: int | None = None, **kwargs: Any) -> ListSink:
        from latentvla_core.latent.train import train_ego, train_environment

        model, pairs = latent_model(folder)
        sink, seen = ListSink(), [0]

        def measure(model: Any, now: int) -> dict[str, float]:
            seen[0] += now == stage
            if until and seen[0] > until:
                raise Stop
            return {}

        own = {"measure": measure, "sink": Renamed(sink), **kwargs}
        with suppress(Stop):
            train_environment(model, pairs, **(own if stage == 1 else {}))
            if stage == 2:
                train_ego(model, pairs, **own)
        return sink

    return train


def latent_model(folder: Path) -> tuple[Any, Any]:
    from latentvla_core.latent.config import LatentActionConfig
    from latentvla_core.latent.model import LatentActionModel
    from latentvla_core.latent.pairs import collect_pairs
    from latentvla_core.latent.quantizer import QuantizerConfig
    from latentvla_core.training.images import ImageCache

    code = QuantizerConfig(codebook_size=8, code_dim=4, revive_every=1, dead_fraction=0.9)
    config = LatentActionConfig.debug(
        environment=code, ego=replace(code, statistics="running"), leak_weight=0.1,
        cycle_weight=0.1, code_dropout=0.1, quality_every=1,
    )  # fmt: skip
    knobs = {**KNOBS, "batch_size": 4}
    config = with_training(config, **{k: v for k, v in knobs.items() if k != "precision"})
    records = little_records(folder / "latent", logs=2, frames=18)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LatentActionModel(config)
    cache = ImageCache(config.features.image_size_wh)
    return model, collect_pairs(records, config.gap_frames, cache)


class Renamed:
    """Hands a stage's loss on under the name that every model has."""

    def __init__(self, sink: ListSink) -> None:
        self.sink = sink

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.sink.log(step, {name.partition("/")[2]: value for name, value in metrics.items()})


MODELS: Mapping[str, Train] = {
    "latent_1": latent(1), "latent_2": latent(2), "vlm": vlm, "student": student,
    **{name: host(name) for name in ("transfuser", "ipad", "flow")},
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
        with launched(Launch(strategy="fsdp")):
            found[f"{name} in parts"] = losses(train(own))
            train(own, checkpoint_dir=folder / f"by_parts_{name}", until=1)
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
