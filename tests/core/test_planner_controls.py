"""Controls of a fused planner: what each is told, how arms are compared, and the positive control:
a fusion that is told the future must use it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planner_factory import FEATURE_DIM, arc, make_features, make_records, straight_world

from latentvla_core.errors import SetupError
from latentvla_core.planner.config import ChoosingConfig, PlannerTrainConfig
from latentvla_core.planner.controls import CONTROLS, blacken, control_features, oracle_features
from latentvla_core.planner.evaluation import displacement_errors
from latentvla_core.planner.fusion import FusionConfig
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.inputs import VlmInputs
from latentvla_core.planner.model import build_planner, fuse
from latentvla_core.planner.plan import plan, plan_all
from latentvla_core.planner.train import train_planner
from latentvla_core.planner.variants import (
    ARMS,
    COMPARISONS,
    LINE,
    POSITIVE,
    arm,
    compared,
    positive_control,
)
from latentvla_core.training.config import with_training

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
ONE_PLAN = replace(
    IpadConfig.debug(), cameras=("CAM_F0",), proposals=1, iterations=1, score_every=1000
)
BENDS = np.array([-0.04, 0.0, 0.04])


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """64 scenes whose bend no input tells, and the codes that do: half to learn from."""
    records = make_records(tmp_path_factory.mktemp("scenes"), 64)
    bend = np.random.default_rng(5).integers(0, 3, len(records))
    scenes = [
        replace(r, command=3, future_poses=arc(float(r.ego_velocity_mps[0]), BENDS[way]))
        for r, way in zip(records, bend, strict=True)
    ]
    return scenes, np.repeat(5 * bend[:, None], 12, axis=1)


def error_m(planner, scenes, features=None) -> float:
    return displacement_errors(plan(planner, scenes, features), scenes)["ade_m"]


def test_a_fusion_that_is_told_the_future_beats_the_host_trained_as_long(hidden):
    """The positive control, on scenes that nobody trained on. A broken twin, whose gates stay shut,
    is told the same and plans as if it were told nothing.
    """
    scenes, codes = hidden
    learn, held_out = scenes[:32], scenes[32:]
    tokens = [r.scene_token for r in scenes]
    told = [oracle_features(codes[k], FEATURE_DIM, tokens[k]) for k in (slice(32), slice(32, 64))]
    config = replace(
        PlannerTrainConfig.debug(), fine_tune_steps=250, fine_tune_learning_rate=1e-2,
        choosing=ChoosingConfig.none(),
    )  # fmt: skip
    config = with_training(config, steps=20, batch_size=16, learning_rate=1e-2, log_every=300)
    worlds = [straight_world(r) for r in learn]
    host = build_planner("ipad", ONE_PLAN)
    train_planner(host, learn, config, worlds=worlds)
    fused = fuse(host, FusionConfig.debug(), FEATURE_DIM)
    train_planner(fused, learn, config, worlds=worlds, features=told[0])
    train_planner(host, learn, config, worlds=worlds, fine_tune=True)
    longer = error_m(host, held_out)
    assert error_m(fused, held_out, told[1]) < 0.75 * longer
    moved = plan(fused, held_out, told[1]) - plan(fused, held_out)
    assert np.abs(moved[..., 1]).max() > 1.0
    twin = fuse(fused, FusionConfig.debug(), FEATURE_DIM)
    assert np.array_equal(plan(twin, held_out, told[1]), plan(twin, held_out))
    assert error_m(twin, held_out, told[1]) > 0.75 * longer


def test_the_oracle_says_each_code_alike_and_nothing_where_there_is_none(hidden):
    scenes, codes = hidden
    codes = codes.copy()
    codes[2, 4] = -1
    said = oracle_features(codes, 8, [r.scene_token for r in scenes])
    same = np.flatnonzero((codes == codes[0]).all(1))
    assert np.array_equal(said.action[same[0]], said.action[same[-1]])
    assert not said.action[2].any()
    batch = VlmInputs(said, scenes, 8).batch(np.arange(4))
    assert batch.has_action.tolist() == [True, True, False, True]
    assert not batch.has_visual.any()
    likely = batch.answer.unflatten(-1, (12, 16))
    assert torch.equal(likely[0].argmax(-1), torch.from_numpy(codes[0]))
    assert likely[0].amax(-1).min() > 0.999
    assert not likely[2].any()
    again = oracle_features(codes, 8, [r.scene_token for r in scenes])
    assert np.array_equal(again.action, said.action)  # fixed embeddings


def test_refinement_tells_every_scene_the_same(hidden):
    records = hidden[0][:6]
    said = control_features(make_features(records), "refinement")
    assert said.has("visual").all()
    assert said.has("action").all()
    assert not said.visual.any()
    assert not said.action.any()
    assert not VlmInputs(said, records, FEATURE_DIM).answer.any()  # no decoded motion either


def test_pictures_alone_bring_no_decoded_motion(hidden):
    records = hidden[0][:4]
    features = make_features(records)
    answers = {
        name: VlmInputs(control_features(features, name), records, FEATURE_DIM).answer
        for name in CONTROLS
    }
    assert torch.equal(answers["action_only"], answers["full"])
    assert [name for name in CONTROLS if not answers[name].any()] == [
        "visual_only", "refinement", "missing"
    ]  # fmt: skip
    assert (answers["noise"] != answers["full"]).any()


def test_black_pictures_leave_the_ego_status(hidden):
    batch = {name: torch.ones(2, 3) for name in ("camera", "images", "lidar", "status", "ego")}
    dark = blacken(batch)
    assert [bool(dark[name].any()) for name in batch] == [False, False, False, True, True]
    assert batch["camera"].all()


def test_a_planner_trained_on_black_pictures_learned_nothing_from_them(hidden):
    records = hidden[0][:4]
    planners = []
    for shift in (0, 1):
        order = records[shift:] + records[:shift]
        seen = [
            replace(r, camera_paths=o.camera_paths, sensor_root=o.sensor_root)
            for r, o in zip(records, order, strict=True)
        ]
        planner = build_planner("transfuser", TransfuserConfig.debug())
        train_planner(planner, seen, PlannerTrainConfig.debug(), view=blacken)
        planners.append(plan_all(planner, seen, view=blacken).poses)
    assert np.array_equal(*planners)


def rows_of(host: str, name: str, score: float, ade_m: float, logs: int = 4):
    """Three scenes a log; a little scatter, so that an interval has a width."""
    return [
        {"host": host, "arm": name, "split": "test", "scene_token": f"{log}-{i}",
         "log_name": f"log {log}", "score": score + 0.001 * log, "ade_m": ade_m - 0.001 * i}
        for log in range(logs) for i in range(3)
    ]  # fmt: skip


def test_arms_are_compared_scene_by_scene_and_less_displacement_is_better():
    rows = rows_of("ipad", "oracle", 0.8, 1.0) + rows_of("ipad", "equal_compute", 0.9, 2.0)
    found = {c.figure: c for c in compared(rows)}
    assert found["ade_m"].verdict == "holds"
    assert found["ade_m"].difference.mean == pytest.approx(-1.0)
    assert found["score"].verdict == "against"
    assert found["score"].difference.groups == 4
    assert {(c.a, c.b) for c in found.values()} == {POSITIVE}


def test_the_positive_control_speaks_about_the_fusion():
    good = rows_of("ipad", "oracle", 0.8, 1.0) + rows_of("ipad", "equal_compute", 0.8, 2.0)
    same = rows_of("ipad", "oracle", 0.9, 2.0) + rows_of("ipad", "equal_compute", 0.8, 2.0)
    one = [row for row in good if row["log_name"] == "log 0"]
    assert positive_control(compared(good), "ipad", "test")[0]
    held, told = positive_control(compared(same), "ipad", "test")
    assert not held
    assert "NOT used" in told
    assert not positive_control(compared(one), "ipad", "test")[0]  # one log is no interval
    assert positive_control(compared(good), "transfuser", "test") is None
    assert positive_control(compared(good), "ipad", "val") is None


def test_scenes_without_a_score_and_arms_that_were_not_run_are_left_out():
    rows = rows_of("ipad", "oracle", 0.8, 1.0) + rows_of("ipad", "equal_compute", 0.7, 2.0)
    rows[0]["score"] = np.nan
    found = {c.figure: c for c in compared(rows[:-1])}
    assert (found["score"].difference.count, found["ade_m"].difference.count) == (10, 11)
    nothing = [{**row, "score": np.nan} for row in rows]
    assert {c.figure: c.verdict for c in compared(nothing)}["score"] == "open"
    assert compared(rows_of("ipad", "noise", 0.8, 1.0)) == []


def test_every_arm_is_compared_and_every_comparison_is_of_arms():
    named = {name for a, b, _ in COMPARISONS for name in (a, b)}
    assert named == {*ARMS, *LINE}
    assert arm("noise").isolates
    with pytest.raises(SetupError, match="use one of equal_compute, black"):
        arm("luck")
