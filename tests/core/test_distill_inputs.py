"""What the student reads, what it is asked to match, and how it is compared: numbers by hand on
scenes small enough to see.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from vlm_worlds import record, scenes, without_pictures

from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.evaluation import evaluate
from latentvla_core.distill.inputs import StudentScenes
from latentvla_core.distill.losses import distillation_loss, masked_mean, state_distance, token_kl
from latentvla_core.distill.model import Student
from latentvla_core.distill.network import StudentOutput
from latentvla_core.distill.train import DistillationData
from latentvla_core.training.images import MISSING, ImageCache
from latentvla_core.types import Command
from latentvla_core.vlm.features import VlmFeatures, empty
from latentvla_core.vlm.samples import code_frequencies

CONFIG = StudentConfig.debug()
WIDTH = 4


def prepared(records: list) -> StudentScenes:
    return StudentScenes(records, CONFIG, ImageCache(CONFIG.image_size_wh))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    """Four scenes with pictures and their codes; scene 2 has the front camera alone."""
    made, codes = scenes(4, tmp_path_factory.mktemp("s"), seed=1, size_wh=CONFIG.image_size_wh)
    made[2] = without_pictures(made[2], ("CAM_F0",))
    return made, codes


def test_numbers_are_scaled_to_about_one(tmp_path: Path):
    scene = replace(
        record("a", tmp_path, speed_mps=20.0, yaw_rate_radps=0.3, command=int(Command.RIGHT)),
        ego_acceleration_mps2=np.array([-4.0, 1.0]),
    )
    found = prepared([scene])
    np.testing.assert_allclose(found.state, [[2.0, -2.0, 0.5, 1.0]], rtol=1e-5)
    assert found.state.dtype == np.float32
    assert found.command.tolist() == [int(Command.RIGHT)]


def test_the_past_is_three_poses_oldest_first_with_the_yaw_as_a_direction(tmp_path: Path):
    (history,) = prepared([record("a", tmp_path, speed_mps=8.0)]).history
    np.testing.assert_allclose(history[:, 0], [-1.2, -0.8, -0.4], rtol=1e-6)
    np.testing.assert_allclose(history[:, 2:], [[0, 1]] * 3, atol=1e-6)


@pytest.mark.parametrize("known", [0, 1, 2])
def test_a_short_past_stands_at_the_young_end_and_the_rest_is_masked(tmp_path: Path, known: int):
    whole = record("a", tmp_path, speed_mps=8.0)
    short = replace(whole, history_poses=whole.history_poses[-1 - known :])
    found = prepared([whole, short])
    assert found.history_mask.tolist() == [[True] * 3, [k >= 3 - known for k in range(3)]]
    np.testing.assert_array_equal(found.history[1, 3 - known :], found.history[0, 3 - known :])
    assert (found.history[1, : 3 - known, :2] == 0).all()


def test_no_scene_is_no_batch_and_no_crash():
    found = prepared([])
    assert len(found) == 0
    assert found.rows.shape == (0, len(CONFIG.cameras))
    assert (found.state.shape, found.history.shape) == ((0, 4), (0, 3, 4))


def test_pictures_of_a_batch_lie_scene_after_scene_in_the_order_of_the_cameras(world):
    found = prepared(world[0])
    batch = found.batch(np.array([2, 0]))
    assert batch.view_mask.tolist() == [[True, False, False], [True] * 3]
    assert len(batch.pictures) == int(batch.view_mask.sum()) == 4
    rows = [found.rows[2, 0], *found.rows[0]]
    np.testing.assert_array_equal(batch.pictures.numpy(), found.cache.images[rows])
    np.testing.assert_array_equal(batch.state.numpy(), found.state[[2, 0]])


def test_a_scene_is_refused_with_the_picture_or_the_number_that_is_wrong(world, tmp_path: Path):
    good = world[0][0]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    broken = replace(
        good,
        sensor_root=str(tmp_path),
        camera_names=("CAM_F0",),
        camera_paths=("broken.jpg",),
    )
    nan = replace(good, ego_velocity_mps=np.array([np.nan, 0.0]))
    blind = without_pictures(good, ("CAM_L0", "CAM_R0"))
    unnamed = replace(good, camera_paths=("", *good.camera_paths[1:]))
    found = prepared([good, broken, nan, blind, unnamed])
    assert found.valid.tolist() == [True, False, False, False, False]
    assert found.reasons[0] == ""
    assert found.reasons[1].startswith("broken.jpg: ")
    assert found.reasons[2] == "the ego state or its history holds a value that is not finite"
    assert found.reasons[3] == found.reasons[4] == "no picture of CAM_F0 at the current time"
    assert found.rows[4, 0] == MISSING


def features(codes: np.ndarray, logits: np.ndarray | None = None) -> VlmFeatures:
    """What somebody says who is sure of these codes; states are all ones."""
    made = empty([f"s{k}" for k in range(len(codes))], 2, WIDTH, "")
    if logits is None:
        logits = 9.0 * np.eye(16, dtype=np.float32)[codes]
    ones = [np.ones_like(getattr(made, name)) for name in ("visual", "action")]
    valid = np.ones(len(codes), bool)
    return replace(made, codes=codes, logits=logits, visual=ones[0], action=ones[1], valid=valid)


def student() -> Student:
    """Only its frequencies are asked in these tests."""
    return Student(CONFIG, None, np.full((12, 16), 1 / 16))  # type: ignore[arg-type]


CODES = (np.arange(24).reshape(2, 12) % 16).astype(np.int8)


def test_a_student_that_says_what_its_teacher_says_agrees_in_everything():
    same = features(CODES)
    found = evaluate(student(), [], CODES, same, features=same)
    assert found["teacher_agreement"] == found["token_accuracy"] == 1.0
    assert found["teacher_kl"] == pytest.approx(0.0, abs=1e-6)
    assert found["action_cosine"] == pytest.approx(1.0)
    assert found["visual_cosine"] == pytest.approx(1.0)
    assert found["teacher_token_accuracy"] == 1.0


def test_states_are_compared_only_behind_the_same_tokens():
    own, other = features(CODES), CODES.copy()
    other[:, 6] = (other[:, 6] + 1) % 16
    teacher = features(other)
    teacher.action[:, 6:] = -1.0  # what the student could not know
    found = evaluate(student(), [], CODES, teacher, features=own)
    assert found["teacher_agreement"] == pytest.approx(11 / 12)
    assert found["action_cosine"] == pytest.approx(1.0)
    assert found["teacher_token_accuracy"] == pytest.approx(11 / 12)
    away = evaluate(student(), [], CODES, features((CODES + 1) % 16), features=own)
    assert away["teacher_agreement"] == away["action_cosine"] == 0.0


def test_the_distance_of_distributions_is_that_of_the_first_tokens_when_nothing_agrees():
    own, teacher = features(CODES), features(((CODES + 1) % 16).astype(np.int8))
    teacher.logits[:, 1:] *= 3  # what it would say behind tokens that the student did not read
    found = evaluate(student(), [], CODES, teacher, features=own)
    expected = token_kl(
        torch.from_numpy(own.logits[:, 0]), torch.from_numpy(teacher.logits[:, 0]), 1.0
    )
    assert found["teacher_kl"] == pytest.approx(float(expected.mean()))
    assert found["teacher_kl"] > 1


def test_scenes_without_label_or_prediction_are_counted_out():
    labels = CODES.copy()
    labels[0, 3] = -1
    own = features(CODES)
    found = evaluate(student(), [], labels, None, features=own)
    assert (found["samples"], found["invalid"]) == (1.0, 0.0)
    own = replace(own, valid=np.array([True, False]))
    found = evaluate(student(), [], labels, features(CODES), features=own)
    assert (found["samples"], found["invalid"]) == (0.0, 1.0)
    assert "token_accuracy" not in found and "teacher_token_accuracy" not in found
    assert found["teacher_agreement"] == 1.0


def test_a_code_beyond_the_codebook_is_no_label():
    labels = CODES.copy()
    labels[1, 0] = 16
    assert evaluate(student(), [], labels, None, features=features(CODES))["samples"] == 1.0


def test_nobody_in_common_is_no_comparison():
    own = features(CODES)
    nobody = replace(own, valid=np.zeros(2, bool))
    found = evaluate(student(), [], CODES, nobody, features=own)
    assert "teacher_agreement" not in found and found["samples"] == 2.0


def test_prediction_of_nothing_has_no_rows():
    found = student().predict([])
    assert len(found) == 0 and found.reasons == ()


def test_smooth_l1_counts_lengths_beside_directions():
    state = torch.tensor([[3.0, 4.0]])
    longer = 2 * state
    assert float(state_distance(state, longer, 0.0)) == pytest.approx(0.0, abs=1e-6)
    # |3| and |4| beyond 1: (3 − ½ + 4 − ½) / 2
    assert float(state_distance(state, longer, 0.1)) == pytest.approx(0.3, rel=1e-5)


def loss_of(config: StudentConfig, read: torch.Tensor, **weights: float):
    codes = torch.zeros(2, 12, dtype=torch.long)
    labels = codes.clone()
    labels[1] = -1
    output = StudentOutput(
        read, torch.zeros(2, 12, 16), torch.ones(2, 2, WIDTH), torch.ones(2, 12, WIDTH)
    )
    return distillation_loss(
        output,
        teacher_codes=codes,
        teacher_logits=torch.zeros(2, 12, 16),
        teacher_visual=-torch.ones(2, 2, WIDTH),
        teacher_action=-torch.ones(2, 12, WIDTH),
        labels=labels,
        config=replace(config, smooth_l1_weight=0.0, **weights),
    )


def test_the_loss_is_the_weighted_sum_of_its_terms():
    same = torch.zeros(2, 12, dtype=torch.long)
    weights = {"kl_weight": 3.0, "label_weight": 0.25, "action_weight": 2.0, "visual_weight": 0.5}
    total, terms = loss_of(CONFIG, same, **weights)
    assert terms["kl"] == pytest.approx(0.0, abs=1e-6)
    assert terms["label"] == pytest.approx(np.log(16))  # of the one scene that has a label
    assert terms["action"] == pytest.approx(2.0) and terms["visual"] == pytest.approx(2.0)
    assert float(total) == pytest.approx(0.25 * np.log(16) + 2 * 2.0 + 0.5 * 2.0)


def test_in_parallel_nothing_is_read_so_nothing_can_differ():
    other = torch.ones(2, 12, dtype=torch.long)
    assert loss_of(CONFIG, other)[1]["action"] == 0.0
    parallel = replace(CONFIG, decoding="parallel")
    assert loss_of(parallel, other)[1]["action"] == pytest.approx(2.0)


def test_a_mean_over_a_mask_is_over_what_the_mask_shows():
    values = torch.tensor([[1.0, 100.0], [3.0, 100.0]])
    mask = torch.tensor([[True, False], [True, False]])
    assert float(masked_mean(values, mask)) == 2.0


@pytest.mark.parametrize(("fraction", "reads_labels"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_part_of_each_batch_reads_labels(world, fraction: float, reads_labels: int):
    said = ((world[1] + 1) % 16).astype(np.int8)
    data = DistillationData(prepared(world[0]), world[1], features(said), fraction)
    batch = data.batch(np.arange(4), np.random.default_rng(0))
    read = (batch.prefix == batch.labels).all(1)
    assert int(read.sum()) == reads_labels
    assert bool((batch.prefix[~read] == batch.teacher_codes[~read]).all())


def test_training_scenes_are_those_that_both_sides_can_use(world):
    own = [*world[0][:3], without_pictures(world[0][3], ())]
    teacher = replace(features(world[1]), valid=np.array([True, False, True, True]))
    data = DistillationData(prepared(own), world[1], teacher, 0.5)
    assert data.usable.tolist() == [0, 2]
    batch = data.batch(np.array([1]), np.random.default_rng(0))
    np.testing.assert_array_equal(batch.teacher_codes.numpy()[0], world[1][2])


def test_half_a_label_is_no_label(world):
    labels = world[1].astype(np.int64)
    labels[0, 11] = 99
    data = DistillationData(prepared(world[0]), labels, features(world[1]), 1.0)
    assert (data.labels[0] == -1).all()
    batch = data.batch(np.arange(4), np.random.default_rng(0))
    np.testing.assert_array_equal(batch.prefix[0].numpy(), world[1][0])


def test_no_code_is_impossible_and_the_frequent_are_likely():
    none = code_frequencies(np.zeros((0, 12), np.int8))
    np.testing.assert_allclose(none, 1 / 16)
    some = code_frequencies(np.full((9, 12), 3))
    np.testing.assert_allclose(some[:, 3], 9.5 / 17)
    np.testing.assert_allclose(some[:, 0], 0.5 / 17)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"width": 33}, "width 33 is no multiple of heads 2; change one of them"),
        ({"label_prefix_fraction": 1.5}, "label_prefix_fraction 1.5 must be in 0 … 1"),
        ({"temperature": 0.0}, "temperature 0.0 above 0"),
        (
            {"training": replace(CONFIG.training, epochs=0.0, steps=0)},
            r"training\.epochs and training\.steps are both 0; give one of them",
        ),
    ],
)
def test_a_configuration_that_cannot_work_says_which_field(change, told):
    with pytest.raises(ValueError, match=told):
        replace(CONFIG, **change)


def test_context_tokens_are_cells_of_32_pixels_pooled():
    assert replace(CONFIG, image_size_wh=(112, 56), token_pool=1).grid == (2, 4)
    assert replace(CONFIG, image_size_wh=(112, 56), token_pool=3).grid == (1, 2)
    assert StudentConfig.paper().grid == (4, 7)
