"""Codes, prompts and samples: what the model is asked, without loading a model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from vlm_worlds import record, without_pictures

from latentvla_core.errors import DataError
from latentvla_core.training.config import with_training
from latentvla_core.types import Command
from latentvla_core.vlm import prompts, tokens
from latentvla_core.vlm.config import TextTower, VlmConfig
from latentvla_core.vlm.samples import build_samples

CONFIG = VlmConfig.debug()


def test_codes_survive_the_way_through_tokens():
    codes = np.arange(16, dtype=np.int8)
    assert tokens.encode(codes[:2]) == "<ACT_1><ACT_2>"
    assert np.array_equal(tokens.decode(tokens.encode(codes)), codes)


def test_a_code_outside_the_codebook_is_refused():
    with pytest.raises(DataError, match="code 16"):
        tokens.encode([16])
    for text in ("<ACT_0>", "<ACT_17>", "<ACT_1> and more"):
        with pytest.raises(DataError, match="answer"):
            tokens.decode(text)


def test_the_prompt_says_the_motion_state_in_the_template_s_words():
    scene = record("a", "/nowhere", speed_mps=8.0, yaw_rate_radps=0.1, command=int(Command.LEFT))
    assert prompts.user_text(prompts.motion_state(scene)) == (
        "Speed 8.00 m/s, acceleration (0.10, 0.80) m/s², yaw rate 0.100 rad/s.\n"
        "Past 1.5 s positions: (-12.00, 0.90, -0.15), (-8.00, 0.40, -0.10), (-4.00, 0.10, -0.05). Command: left.\n"
        "Predict the next 12 latent actions."
    )


def test_the_yaw_rate_is_right_across_the_turn_of_pi():
    scene = record("a", "/nowhere", speed_mps=1.0)
    history = scene.history_poses.copy()
    history[-2, 2] = 2 * np.pi - 0.05
    assert prompts.motion_state(
        replace(scene, history_poses=history)
    ).yaw_rate_radps == pytest.approx(0.1)


def test_zero_has_one_spelling():
    assert [prompts.number(v, 2) for v in (-0.001, 0.0, -0.006)] == ["0.00", "0.00", "-0.01"]


def test_the_question_does_not_know_the_future():
    scene = record("a", "/nowhere", speed_mps=8.0)
    other = replace(
        scene,
        future_poses=scene.future_poses[::-1] + 5.0,
        front_paths=tuple("x" for _ in scene.front_paths),
        object_boxes=np.ones((2, 7)),
    )
    one, two = (
        build_samples([s], np.full((1, 12), c), CONFIG)[0] for s, c in ((scene, 3), (other, 9))
    )
    assert replace(one, codes=None) == replace(two, codes=None)


def test_unknown_template_versions_are_named():
    with pytest.raises(ValueError, match="v9"):
        prompts.user_text(prompts.motion_state(record("a", "", speed_mps=1.0)), "v9")


def test_a_scene_without_front_picture_or_with_broken_state_is_invalid_with_its_reason():
    scene = record("a", "/nowhere", speed_mps=8.0)
    broken = replace(scene, ego_acceleration_mps2=np.array([np.nan, 0.0]))
    no_front, not_finite = build_samples(
        [without_pictures(scene, ("CAM_L0",)), broken], None, CONFIG
    )
    assert not no_front.valid
    assert "CAM_F0" in no_front.reason
    assert not not_finite.valid
    assert "not finite" in not_finite.reason


def test_views_come_in_prompt_order_and_one_is_enough():
    scene = record("a", "/nowhere", speed_mps=8.0)
    shuffled = replace(
        scene, camera_names=scene.camera_names[::-1], camera_paths=scene.camera_paths[::-1]
    )
    full, single = build_samples([shuffled, without_pictures(scene, ("CAM_F0",))], None, CONFIG)
    assert full.cameras == ("CAM_F0", "CAM_L0", "CAM_R0")
    assert full.image_paths == ("a/CAM_F0.jpg", "a/CAM_L0.jpg", "a/CAM_R0.jpg")
    assert single.valid
    assert single.cameras == ("CAM_F0",)


def test_rows_with_minus_one_have_no_label():
    scene = record("a", "/nowhere", speed_mps=8.0)
    codes = np.zeros((2, 12), np.int8)
    codes[1, 5] = -1
    labelled, unlabelled = build_samples([scene, scene], codes, CONFIG)
    assert labelled.codes is not None
    assert unlabelled.codes is None
    assert unlabelled.valid
    with pytest.raises(ValueError, match="one row a record"):
        build_samples([scene], codes, CONFIG)


def test_configurations_refuse_what_cannot_work():
    with pytest.raises(ValueError, match="mrope_section"):
        TextTower(hidden_size=64, heads=4, mrope_section=(1, 1, 1))
    with pytest.raises(ValueError, match="multiples of 28"):
        VlmConfig(image_size_wh=(100, 56))
    assert with_training(CONFIG, epochs=3, steps=0).training.steps_for(100) == 75
    assert with_training(CONFIG, epochs=3, steps=10).training.steps_for(100) == 10


def test_tokens_and_prompts_cost_neither_torch_nor_transformers():
    code = (
        "import sys, latentvla_core.vlm.tokens, latentvla_core.vlm.prompts, latentvla_core.vlm.samples, "
        "latentvla_core.vlm.features, latentvla_core.distill.config;"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
