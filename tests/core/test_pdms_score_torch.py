"""The torch path gives the NumPy path's numbers."""

import numpy as np
import pdms_golden as golden
import pytest
import torch
from pdms_golden import needs_golden
from pdms_little_worlds import straight_plan, straight_road
from test_pdms_score_properties import random_plans, random_world

from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.pdms.torch_score import TorchScorer

torch.set_num_threads(1)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def compare(worlds, poses, device, atol=1e-8):
    ours = TorchScorer(worlds, device)(torch.tensor(poses))
    table = score_trajectories(worlds, poses)
    for name in (*SUB_SCORES["pdms"], "score"):
        np.testing.assert_allclose(ours[name].cpu().numpy(), table.grid(name), rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("device", DEVICES)
def test_random_worlds(device):
    rng = np.random.default_rng(7)
    worlds = [random_world(rng, str(i)) for i in range(8)]
    compare(worlds, np.stack([random_plans(rng, 16) for _ in worlds]), device)


@needs_golden
@pytest.mark.parametrize("device", DEVICES)
def test_real_scenes(device):
    worlds = golden.worlds()[::20]
    poses = np.stack([golden.plans()[world.scene_token][1] for world in worlds])
    compare(worlds, poses, device)


def test_bad_plans_are_nan_and_wrong_shapes_are_refused():
    bad = straight_plan(8.0)
    bad[2, 0] = np.inf
    scorer = TorchScorer([straight_road()])
    score = scorer(torch.tensor(np.stack([straight_plan(8.0), bad])[None]))["score"]
    assert score[0, 0] == 1.0
    assert torch.isnan(score[0, 1])
    with pytest.raises(ValueError, match="needs"):
        scorer(torch.zeros(1, 2, 7, 3))
