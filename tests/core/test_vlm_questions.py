"""Questions to the language model and what comes of them, without a model: chats, batches, answers
against labels, features as rows, memory by rule.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from vlm_worlds import record, scenes, without_pictures

from latentvla_core.errors import SetupError
from latentvla_core.training.config import FitConfig, with_training
from latentvla_core.training.images import ImageCache
from latentvla_core.types import Command
from latentvla_core.vlm import features as vlm_features
from latentvla_core.vlm import prompts, tokenizer, tokens
from latentvla_core.vlm.config import TextTower, VlmConfig
from latentvla_core.vlm.evaluation import compare
from latentvla_core.vlm.features import empty
from latentvla_core.vlm.memory import MemoryPlan, _activations, memory_plan
from latentvla_core.vlm.processor import IMAGE, VlmProcessor
from latentvla_core.vlm.samples import build_samples, with_pictures

CONFIG = VlmConfig.debug()


@cache
def processor() -> VlmProcessor:
    words = tokenizer.build_tiny()
    tokens.add_to(words)
    return VlmProcessor(CONFIG, words)


@pytest.fixture(scope="module")
def world():
    return scenes(3, Path(mkdtemp(prefix="questions_")), seed=2, size_wh=CONFIG.image_size_wh)


# ---- words


@pytest.mark.parametrize("command", list(Command))
def test_every_command_has_a_word(command: Command):
    state = prompts.motion_state(record("a", "/no", speed_mps=1.0, command=int(command)))
    assert f"Command: {prompts.COMMAND_WORDS[command]}." in prompts.user_text(state)


def test_a_car_without_a_past_says_so_and_does_not_turn():
    scene = record("a", "/no", speed_mps=5.0, yaw_rate_radps=0.2)
    state = prompts.motion_state(replace(scene, history_poses=scene.history_poses[-1:]))
    assert state.past_poses == () and state.yaw_rate_radps == 0.0
    assert "Past 1.5 s positions: unknown." in prompts.user_text(state)


def test_a_long_past_is_cut_to_its_last_three_poses():
    scene = record("a", "/no", speed_mps=4.0)
    longer = np.concatenate([[[-99.0, 0.0, 0.0]], scene.history_poses])
    past = prompts.motion_state(replace(scene, history_poses=longer)).past_poses
    assert [pose[0] for pose in past] == [-6.0, -4.0, -2.0]


def test_speed_is_the_length_of_the_velocity():
    scene = replace(record("a", "/no", speed_mps=1.0), ego_velocity_mps=np.array([-3.0, 4.0]))
    assert prompts.motion_state(scene).speed_mps == 5.0


@pytest.mark.parametrize(
    "change",
    [
        {"ego_velocity_mps": np.array([np.inf, 0.0])},
        {"ego_acceleration_mps2": np.array([0.0, np.nan])},
        {"history_poses": np.full((4, 3), np.nan)},
    ],
    ids=["speed", "acceleration", "history"],
)
def test_a_state_with_a_hole_is_not_finite(change):
    scene = record("a", "/no", speed_mps=1.0)
    assert prompts.motion_state(scene).finite
    assert not prompts.motion_state(replace(scene, **change)).finite


@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_a_chat_is_system_then_pictures_then_words(pictures: int):
    system, user = prompts.messages("Go.", pictures)
    assert (system["role"], user["role"]) == ("system", "user")
    assert system["content"][0]["text"] == prompts.SYSTEM
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["image"] * pictures + ["text"]
    assert user["content"][-1]["text"] == "Go."


# ---- samples


def test_labels_must_be_one_row_a_record(world):
    with pytest.raises(ValueError, match=r"codes are \(2, 12\), expected \(3, 12\)"):
        build_samples(world[0], world[1][:2], CONFIG)


def test_a_sample_without_pictures_on_disk_is_refused_when_they_are_looked_at(world, tmp_path):
    gone = replace(world[0][1], sensor_root=str(tmp_path))
    blind = without_pictures(world[0][2], ("CAM_L0",))
    asked = build_samples([world[0][0], gone, blind], None, CONFIG)
    assert [sample.valid for sample in asked] == [True, True, False]
    looked = with_pictures(asked, ImageCache(CONFIG.image_size_wh))
    assert [sample.valid for sample in looked] == [True, False, False]
    assert looked[1].reason.startswith(gone.camera_paths[0] + ": ")
    assert looked[2].reason == "no picture of CAM_F0 at the current time"
    assert looked[2].text == ""
    assert looked[0] == asked[0]


# ---- batches


def test_questions_of_different_length_end_in_the_same_column(world):
    one = without_pictures(world[0][0], ("CAM_F0",))
    asked = build_samples([one, world[0][1]], None, CONFIG)
    batch = processor().batch(asked, ImageCache(CONFIG.image_size_wh))
    lengths = [len(processor().question_ids(sample)) for sample in asked]
    assert batch.attention_mask.sum(1).tolist() == lengths and lengths[0] < lengths[1]
    assert (batch.input_ids[0, : lengths[1] - lengths[0]] == processor().padding_id).all()
    assert bool((batch.input_ids[0, -5:] == batch.input_ids[1, -5:]).all())
    assert batch.labels.shape == (2, 0)


def test_picture_tokens_are_as_many_as_pictures_cost_and_are_marked(world):
    asked = build_samples(world[0], None, CONFIG)
    batch = processor().batch(asked, ImageCache(CONFIG.image_size_wh))
    marked = batch.mm_token_type_ids == IMAGE
    assert marked.sum(1).tolist() == [3 * CONFIG.tokens_per_view] * 3
    assert bool((batch.input_ids[marked] == processor().image_id).all())
    assert batch.image_grid_thw.tolist() == [[1, 2, 4]] * 9
    assert batch.pixel_values.shape == (9 * 8, 1176)


@pytest.mark.parametrize("learn_end", [True, False])
def test_an_answer_is_twelve_tokens_and_the_end_when_it_is_learned(world, learn_end: bool):
    own = VlmProcessor(replace(CONFIG, learn_end_token=learn_end), processor().tokenizer)
    ids = own.answer_ids(world[1])
    assert ids.shape == (3, 12 + learn_end)
    assert ids[1, 4] == own.action_ids[world[1][1, 4]]
    if learn_end:
        assert (ids[:, 12] == own.end_id).all()


def test_a_still_picture_is_two_equal_frames_of_the_same_patch():
    picture = np.zeros((1, 28, 28, 3), np.uint8)
    picture[0, 3, 20, 1] = 255  # row 3, column 20: patch 1 of 4, green
    values, grid = processor().pixels(picture)
    assert grid.tolist() == [[1, 2, 2]]
    patches = values.view(4, 3, 2, 14, 14)
    bright = (patches > patches.min(dim=-1).values.min(dim=-1).values[..., None, None]).nonzero()
    assert bright.tolist() == [[1, 1, 0, 3, 6], [1, 1, 1, 3, 6]]


# ---- features


def test_features_of_other_shapes_are_refused_with_both():
    made = empty(["a", "b"], 2, 4, "")
    for change, told in (
        ({"codes": made.codes[:1]}, r"codes is \(1, 12\), expected \(2, 12\)"),
        ({"logits": made.logits[:, :6]}, r"logits is \(2, 6, 16\), expected \(2, 12, 16\)"),
        ({"valid": made.valid[:, None]}, r"valid is \(2, 1\), expected \(2,\)"),
        ({"action": made.action[..., :3]}, r"visual \(2, 2, 4\) and action \(2, 12, 3\)"),
        ({"reasons": ("",)}, "1 reasons for 2 scenes; give one per scene"),
    ):
        with pytest.raises(ValueError, match=told):
            replace(made, **change)


def test_rows_chosen_twice_or_not_at_all_come_as_chosen():
    made = empty(["a", "b", "c"], 1, 2, "why")
    made.codes[:, 0] = [1, 2, 3]
    picked = made.select([2, 0, 2])
    assert picked.scene_tokens == ("c", "a", "c") and picked.codes[:, 0].tolist() == [3, 1, 3]
    assert len(made.select([])) == 0 and made.select([]).width == 2


def test_parts_keep_their_order_and_reasons():
    both = vlm_features.concat([empty(["a"], 1, 2, "x"), empty(["b"], 1, 2, "y")])
    assert (both.scene_tokens, both.reasons) == (("a", "b"), ("x", "y"))


def test_a_folder_without_features_says_what_to_give(tmp_path: Path):
    with pytest.raises(SetupError, match="no readable features .*; give a folder VlmFeatures.save"):
        vlm_features.load(tmp_path)
    saved = empty(["a"], 1, 2, "").save(tmp_path / "f")
    (saved / "scenes.json").write_text("{half")
    with pytest.raises(SetupError, match="no readable features"):
        vlm_features.load(saved)


def test_no_rows_have_no_width():
    with pytest.raises(ValueError, match="no rows; features need at least one scene"):
        vlm_features.from_rows([])


# ---- answers against labels


def test_accuracy_is_told_for_each_second_and_beside_what_frequencies_reach():
    labels = np.zeros((2, 12), np.int8)
    said = labels.copy()
    said[0, 4:8] = 7  # all of the second second of one scene of two
    found = compare(
        replace(empty(["a", "b"], 1, 2, ""), codes=said), labels, np.full((12, 16), 1 / 16)
    )
    assert [found[f"token_accuracy_{k}s"] for k in (1, 2, 3)] == [1.0, 0.5, 1.0]
    assert found["token_accuracy"] == pytest.approx(20 / 24)
    assert found["sequence_accuracy"] == 0.5
    assert found["codes_used"] == 2.0
    assert found["marginal_nll"] == pytest.approx(np.log(16))
    assert found["marginal_accuracy"] == 1.0  # code 0 is the first of equals
    assert found["gain_over_marginal"] == pytest.approx(-4 / 24)


# ---- memory


def plan(**change: int) -> MemoryPlan:
    sizes = dict.fromkeys(("weights_bytes", "gradients_bytes", "optimizer_bytes"), 10**9)
    fields = {"parameters": 50_000_000, "trainable": 2_000_000_000, "sequence_length": 99}
    fields |= sizes | {"activations_bytes": 5 * 10**8, "kv_cache_bytes": 1, "devices": 4}
    return MemoryPlan(**(fields | change))


def test_what_training_needs_is_the_sum_of_its_four_parts():
    assert plan().training_bytes == 3_500_000_000
    assert plan(weights_bytes=0).training_bytes == 2_500_000_000


def test_a_plan_is_a_table_that_a_person_reads():
    lines = str(plan()).splitlines()
    assert lines[0].split() == ["parameters", "50.000", "M"]
    assert lines[1].split() == ["trained", "2.000", "B"]
    assert "training, each of 4" in str(plan()) and lines[-2].endswith("3.50 GB")
    assert len({len(line) for line in lines}) == 1


def test_lora_keeps_half_floats_and_adds_what_it_trains():
    whole = replace(VlmConfig.paper(), text=replace(VlmConfig.paper().text, layers=2))
    thin = memory_plan(replace(whole, lora_rank=8))
    full = memory_plan(whole)
    assert thin.trainable < 0.01 * full.trainable
    assert full.weights_bytes == 4 * full.parameters
    assert thin.weights_bytes == 2 * thin.parameters + 4 * thin.trainable
    assert thin.gradients_bytes == 4 * thin.trainable


def test_keys_and_values_cost_two_rows_a_layer_and_head():
    config = CONFIG  # 2 layers, 1 head of 16 numbers, fp32
    found = memory_plan(config)
    row = 2 * 2 * 1 * 16 * 4
    assert found.kv_cache_bytes == config.training.batch_size * found.sequence_length * row


def test_checkpointing_and_frozen_eyes_cost_less_and_more_layers_more():
    base = VlmConfig.mini()
    deep = replace(base, text=replace(base.text, layers=2 * base.text.layers))
    assert _activations(deep, 100) > _activations(base, 100)
    assert _activations(replace(base, gradient_checkpointing=True), 100) < _activations(base, 100)
    assert _activations(replace(base, freeze_vision=True), 100) < _activations(base, 100)
    half = with_training(base, precision="bf16")
    assert _activations(half, 100) < _activations(base, 100)
    assert _activations(base, 200) > 1.5 * _activations(base, 100)


# ---- configurations


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"image_size_wh": (100, 56)},
            r"image_size_wh \(100, 56\) must be positive multiples of 28",
        ),
        ({"image_size_wh": (0, 56)}, "must be positive multiples of 28"),
        ({"cameras": ()}, r"cameras \(\) must be some of"),
        ({"cameras": ("CAM_X",)}, "must be some of"),
        ({"backend": "pretrained"}, "needs text.vocab_rows"),
        ({"training": FitConfig(steps=0)}, "epochs and training.steps are both 0; give one"),
    ],
)
def test_a_configuration_that_cannot_work_says_why(change, told):
    with pytest.raises(ValueError, match=told):
        replace(CONFIG, **change)


def test_heads_share_keys_evenly_or_are_refused():
    with pytest.raises(ValueError, match="heads 4 is no multiple of kv_heads 3; pick a divisor"):
        TextTower(kv_heads=3)
    with pytest.raises(ValueError, match=r"\(64 / 4 / 2 = 8\); change one of the three"):
        TextTower(mrope_section=(2, 2, 2))
