"""The gymnasium environment is the same episode, and keeps gymnasium's rules."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="the extra rl is not installed")

from latentvla_core.closed_loop.drivers.baselines import floor
from latentvla_core.closed_loop.env import DriveEnv, Reward
from latentvla_core.closed_loop.episode import prepare_scene, run_episode
from latentvla_core.closed_loop.scenes.spec import SceneSpec
from latentvla_core.errors import SetupError

pytestmark = pytest.mark.slow

SPEC = SceneSpec(situation="lead_brakes", world_seed=900_001, location="us-ma-boston", seed=1)


@pytest.fixture(scope="module")
def env() -> DriveEnv:
    return DriveEnv([SPEC], seconds=4.0, cameras=("CAM_F0",), picture_wh=(64, 36))


def test_gymnasiums_own_check_passes(env: DriveEnv):
    import warnings

    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends normalised actions; ours are metres
        check_env(env, skip_render_check=True)


def test_the_same_plans_drive_the_same_way_as_in_an_episode(env: DriveEnv):
    run = run_episode(floor("constant_velocity"), prepare_scene(SPEC, 4.0))
    env.reset(seed=0)
    for step in sorted(run.plans):
        *_, ended, late, info = env.step(run.plans[step].astype(np.float32))
    assert (ended or late) and env.episode is not None
    assert np.allclose(np.stack(env.episode.states), run.states, atol=1e-4)


def test_progress_pays_and_standing_does_not(env: DriveEnv):
    rewards = {}
    for name in ("pdm_closed", "stand_still"):
        run = run_episode(floor(name), prepare_scene(SPEC, 4.0))
        env.reset(seed=0)
        rewards[name] = sum(env.step(run.plans[k])[1] for k in sorted(run.plans))
    assert rewards["pdm_closed"] > rewards["stand_still"]


def test_leaving_the_road_is_paid_once(env: DriveEnv):
    env.reset(seed=0)
    aside = np.zeros((8, 3), np.float32)
    aside[:, 0], aside[:, 1] = np.arange(1, 9) * 3.0, -np.arange(1, 9) * 2.0
    paid = [env.step(aside)[1] for _ in range(8)]
    assert env.was_off_road
    assert sum(r < Reward().off_road / 2 for r in paid) == 1 + env.contacts


def test_an_environment_without_scenes_is_refused():
    with pytest.raises(SetupError, match="no scenes"):
        DriveEnv([])
