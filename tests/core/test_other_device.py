"""Nothing forgets a tensor on the CPU: training, labels, report, planner, student and score on a
device that is another in name.

Each part is a process of its own, because the pretended device is registered for a whole process
(`other_device.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

OTHER = "elsewhere"  # other_device.OTHER, which must not be imported here
HERE = Path(__file__).resolve().parent


def latent_actions() -> None:
    """Trained, resumed from its checkpoint, saved weights loaded, labelled and judged."""
    from latent_little_world import little_records

    from latentvla_core.latent.config import LatentActionConfig
    from latentvla_core.latent.label import label_scenes
    from latentvla_core.latent.model import load, save, state_hash
    from latentvla_core.latent.probes import evaluate
    from latentvla_core.latent.train import train_latent_action_model
    from latentvla_core.training.images import ImageCache

    folder = Path(tempfile.mkdtemp())
    records = little_records(folder, logs=2, frames=16)
    config = LatentActionConfig.debug(
        cycle_weight=0.2, agent_weight=0.1, environment_dropout=0.3, steps=3
    )
    config = replace(config, ego=replace(config.ego, revive_every=2))
    cache, place = (
        ImageCache(config.features.image_size_wh),
        {"device": OTHER, "checkpoint_dir": folder / "run"},
    )
    model = train_latent_action_model(records, config, cache=cache, **place)
    assert state_hash(
        train_latent_action_model(records, config, cache=cache, **place)
    ) == state_hash(model)
    assert np.isfinite(evaluate(records, model, device=OTHER, cache=cache)["gain_over_copy"])
    plain = train_latent_action_model(records, config, cache=cache)
    moved = load(save(plain, folder / "model"), device=OTHER)
    ours, theirs = (label_scenes(records, m, device=m.device, cache=cache) for m in (moved, plain))
    np.testing.assert_array_equal(ours.ego_codes, theirs.ego_codes)
    np.testing.assert_array_equal(ours.environment_codes, theirs.environment_codes)


def score() -> None:
    """Both metrics, with the frame before; the numbers are those of the CPU."""
    from test_pdms_score_properties import random_plans
    from test_pdms_score_torch import plans_before, random_scenes

    from latentvla_core.pdms.tensors.torch_score import TorchWorlds

    rng = np.random.default_rng(7)
    worlds = random_scenes(rng, 4)
    poses = torch.from_numpy(np.stack([random_plans(rng, 6) for _ in worlds]))
    for metric in ("pdms", "epdms"):
        there, here = (
            TorchWorlds.from_worlds(worlds, device, metric=metric) for device in (OTHER, "cpu")
        )
        moved = poses.to(OTHER)
        before = (
            (plans_before(there, moved), plans_before(here, poses))
            if metric == "epdms"
            else (None, None)
        )
        ours, theirs = there.score(moved, previous=before[0]), here.score(poses, previous=before[1])
        for name, column in theirs.columns.items():
            torch.testing.assert_close(ours[name].cpu(), column, rtol=0, atol=1e-12, equal_nan=True)
        assert ours.failures() == theirs.failures()
        assert there.index([worlds[1].scene_token]).device.type == OTHER


def planner() -> None:
    """iPad, fused, whose loss scores its own proposals."""
    from planner_factory import FEATURE_DIM, make_features, make_records, straight_world

    from latentvla_core.planner.config import PlannerTrainConfig
    from latentvla_core.planner.fusion import FusionConfig
    from latentvla_core.planner.model import HOSTS, build_planner, fuse
    from latentvla_core.planner.plan import plan
    from latentvla_core.planner.train import train_planner

    records = make_records(Path(tempfile.mkdtemp()), 4)
    features, worlds = make_features(records), [straight_world(r, 20.0) for r in records]
    host = build_planner("ipad", HOSTS["ipad"].config.debug())
    fused = fuse(host, FusionConfig.debug(), FEATURE_DIM).to(OTHER)
    train_planner(
        fused, records, PlannerTrainConfig.debug(), worlds=worlds, features=features, device=OTHER
    )
    assert np.isfinite(plan(fused, records, features, device=OTHER)).all()


def student() -> None:
    """Distilled, then asked."""
    import test_distill_student as given

    from latentvla_core.distill.train import train_student

    records, codes = given.world()
    trained = train_student(records, codes, given.teacher(), given.CONFIG, device=OTHER)
    assert trained.device.type == OTHER
    assert trained.predict(records).valid.all()


PARTS = {part.__name__: part for part in (latent_actions, score, planner, student)}


@pytest.mark.parametrize("part", PARTS)
def test_no_tensor_is_left_on_the_cpu(part):
    path = {"PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    done = subprocess.run(
        [sys.executable, __file__, part], capture_output=True, text=True, env={**os.environ, **path}
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_forgotten_tensor_is_found():
    done = subprocess.run([sys.executable, __file__, "forgotten"], capture_output=True, text=True)
    assert "meet those of elsewhere" in done.stderr


def forgotten() -> None:
    torch.ones(3).to(OTHER) + torch.ones(3)


if __name__ == "__main__":
    from other_device import pretended

    torch.set_num_threads(1)
    with pretended():
        (PARTS | {"forgotten": forgotten})[sys.argv[1]]()
