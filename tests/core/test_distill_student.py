"""The student: the teacher's interface, honest losses, exact resume."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from vlm_worlds import scenes, without_pictures

from latentvla_core import distill
from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.inputs import StudentScenes
from latentvla_core.distill.losses import (
    agreement,
    distillation_loss,
    masked_mean,
    state_distance,
    token_kl,
)
from latentvla_core.distill.model import Student
from latentvla_core.distill.network import StudentNetwork, StudentOutput
from latentvla_core.distill.train import DistillationData, build_network
from latentvla_core.errors import SetupError
from latentvla_core.training.config import with_training
from latentvla_core.training.images import ImageCache
from latentvla_core.types import SceneRecord
from latentvla_core.vlm.features import ARRAYS, VlmFeatures
from latentvla_core.vlm.samples import code_frequencies

torch.set_num_threads(1)
CONFIG = StudentConfig.debug()
WIDTH, VISUAL = 24, 3


@cache
def world() -> tuple[list[SceneRecord], np.ndarray]:
    """Eight scenes with pictures, one seen by the front camera alone, one with a short history."""
    records, codes = scenes(
        8, Path(mkdtemp(prefix="student_")), seed=6, size_wh=CONFIG.image_size_wh
    )
    records[3] = without_pictures(records[3], ("CAM_F0",))
    records[4] = replace(records[4], history_poses=records[4].history_poses[-2:])
    return records, codes


@cache
def teacher() -> VlmFeatures:
    """A teacher that is right but for one token per scene, fairly sure, and says so in its states."""
    records, codes = world()
    rng = np.random.default_rng(0)
    said = codes.copy()
    said[np.arange(8), np.arange(8)] = (said[np.arange(8), np.arange(8)] + 1) % 16
    logits = rng.normal(size=(8, 12, 16)).astype(np.float32)
    np.put_along_axis(logits, said[..., None].astype(np.int64), 4.0, 2)
    words = rng.normal(size=(16, WIDTH))
    return VlmFeatures(
        scene_tokens=tuple(r.scene_token for r in records),
        codes=said,
        logits=logits,
        visual=rng.normal(size=(8, VISUAL, WIDTH)).astype(np.float16),
        action=words[said].astype(np.float16),
        valid=np.ones(8, bool),
        reasons=("",) * 8,
    )


@cache
def fresh(decoding: str = "autoregressive") -> Student:
    config = replace(CONFIG, feature_width=WIDTH, num_visual_tokens=VISUAL, decoding=decoding)
    return Student(config, build_network(config).eval(), code_frequencies(world()[1]))


# ---- losses


def test_kl_is_zero_for_equal_logits_and_moves_only_the_student():
    student = torch.randn(2, 12, 16, requires_grad=True)
    other = torch.randn(2, 12, 16, requires_grad=True)
    assert token_kl(student, student, 2.0).abs().max() < 1e-6
    assert (token_kl(student, other, 2.0) > 0).all()
    (token_kl(student, other, 2.0).sum() + state_distance(student, other, 0.1).sum()).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert other.grad is None


def test_kl_by_hand():
    student, other = torch.zeros(16), torch.zeros(16)
    other[0] = 2 * np.log(5.0)  # at T = 2: probability 5/20 for code 0, 1/20 for the others
    expected = 4 * (5 / 20 * np.log(16 * 5 / 20) + 15 / 20 * np.log(16 / 20))
    assert float(token_kl(student, other, 2.0)) == pytest.approx(expected, rel=1e-5)


def test_equal_states_have_no_distance_and_opposite_ones_two():
    state = torch.tensor([3.0, 4.0])
    assert float(state_distance(state, state, 0.1)) == pytest.approx(0.0, abs=1e-6)
    assert float(state_distance(state, -state, 0.0)) == pytest.approx(2.0)


def test_the_teacher_s_word_counts_only_behind_its_own_tokens():
    read = torch.tensor([[1, 2, 3, 4], [9, 2, 3, 4]])
    before, including = agreement(read, torch.tensor([[1, 2, 7, 4], [1, 2, 3, 4]]))
    assert before.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert including.tolist() == [[True, True, False, False], [False] * 4]
    assert float(masked_mean(torch.tensor([1.0, 3.0]), torch.tensor([False, False]))) == 0.0


def test_what_the_teacher_would_not_know_does_not_change_the_loss():
    codes = torch.zeros(1, 12, dtype=torch.long)
    read = codes.clone()
    read[0, 5:] = 1
    logits, wild = torch.randn(1, 12, 16), torch.randn(1, 12, 16)
    wild[:, :6] = logits[:, :6]  # position 5 is still predicted behind equal tokens
    states = torch.randn(1, 12, 4)
    wild_states = states.clone()
    wild_states[:, 5:] += 1
    output = StudentOutput(read, torch.zeros(1, 12, 16), torch.ones(1, 2, 4), torch.ones(1, 12, 4))
    visual, labels = torch.ones(1, 2, 4), torch.full((1, 12), -1)
    losses = [
        distillation_loss(
            output,
            teacher_codes=codes,
            teacher_logits=known,
            teacher_visual=visual,
            teacher_action=action,
            labels=labels,
            config=CONFIG,
        )
        for known, action in ((logits, states), (wild, wild_states))
    ]
    assert torch.equal(losses[0][0], losses[1][0])
    assert losses[0][1]["label"] == 0.0
    assert losses[0][1]["kl"] > 0


# ---- network


@pytest.mark.parametrize("decoding", ["autoregressive", "parallel"])
def test_always_twelve_valid_codes_with_the_teacher_s_shapes(decoding):
    found = fresh(decoding).predict(world()[0], batch_size=3)
    assert found.valid.all()
    assert found.codes.shape == (8, 12)
    assert 0 <= found.codes.min() <= found.codes.max() < 16
    assert found.logits.shape == (8, 12, 16)
    assert found.visual.shape == (8, VISUAL, WIDTH)
    assert found.action.shape == (8, 12, WIDTH)


@pytest.mark.parametrize("decoding", ["autoregressive", "parallel"])
def test_cached_steps_equal_one_pass_over_the_same_tokens(decoding):
    student, (records, _) = fresh(decoding), world()
    inputs = StudentScenes(records, student.config, ImageCache(student.config.image_size_wh)).batch(
        np.arange(8)
    )
    stepped = student.network.generate(inputs)
    with torch.inference_mode():
        whole = student.network(inputs, stepped.codes)
    for name in ("logits", "visual", "action"):
        assert torch.allclose(getattr(stepped, name), getattr(whole, name), atol=1e-5), name


def test_a_position_does_not_see_later_tokens():
    student, (records, codes) = fresh(), world()
    inputs = StudentScenes(records, student.config, ImageCache(student.config.image_size_wh)).batch(
        np.arange(8)
    )
    one = torch.from_numpy(codes).long()
    two = one.clone()
    two[:, 6:] = (two[:, 6:] + 3) % 16
    with torch.inference_mode():
        a, b = student.network(inputs, one), student.network(inputs, two)
    assert torch.equal(a.logits[:, :7], b.logits[:, :7])
    assert torch.equal(a.visual, b.visual)
    assert not torch.allclose(a.logits[:, 7:], b.logits[:, 7:])


def test_alone_or_in_a_batch_gives_the_same():
    together, alone = (fresh().predict(world()[0], batch_size=n) for n in (8, 1))
    assert np.array_equal(together.codes, alone.codes)
    assert np.allclose(together.logits, alone.logits, atol=1e-5)


def test_the_future_changes_nothing():
    records, _ = world()
    changed = [
        replace(r, future_poses=r.future_poses[::-1] * 2, front_paths=r.front_paths[::-1])
        for r in records
    ]
    one, two = fresh().predict(records), fresh().predict(changed)
    for name in ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_motion_and_pictures_matter():
    records, _ = world()
    faster = replace(records[0], ego_velocity_mps=records[0].ego_velocity_mps + 5.0)
    mirrored = replace(
        records[0], camera_paths=(records[0].camera_paths[1], *records[0].camera_paths[1:])
    )
    found = fresh().predict([records[0], faster, mirrored])
    assert not np.allclose(found.logits[0], found.logits[1], atol=1e-6)
    assert not np.allclose(found.logits[0], found.logits[2], atol=1e-6)


def test_scenes_that_cannot_be_used_are_rows_with_reasons(tmp_path):
    records, _ = scenes(3, tmp_path, seed=9, size_wh=CONFIG.image_size_wh)
    (tmp_path / records[0].camera_paths[0]).unlink()
    records[1] = without_pictures(records[1], ("CAM_L0",))
    found = fresh().predict(records)
    assert found.valid.tolist() == [False, False, True]
    assert records[0].camera_paths[0] in found.reasons[0]
    assert "CAM_F0" in found.reasons[1]
    assert (found.codes[:2] == -1).all()


# ---- training


def test_half_of_a_batch_reads_labels_and_scenes_without_label_never_do():
    records, codes = world()
    labels = codes.copy()
    labels[0] = -1
    said = teacher()
    shown = StudentScenes(records, fresh().config, ImageCache(CONFIG.image_size_wh))
    data = DistillationData(shown, labels, said, 0.5)
    prefix = data.batch(np.arange(8), np.random.default_rng(0)).prefix.numpy()
    from_label, from_teacher = (prefix == labels).all(1), (prefix == said.codes).all(1)
    assert (from_label ^ from_teacher).all()
    assert 3 <= from_label.sum() <= 4
    assert from_teacher[0]
    assert DistillationData(
        shown, labels, replace(said, valid=np.arange(8) > 1), 0.5
    ).usable.tolist() == [2, 3, 4, 5, 6, 7]


def test_a_run_cut_in_two_equals_one_run(tmp_path):
    records, codes = world()
    config = with_training(CONFIG, steps=4)
    whole = distill.train_student(records, codes, teacher(), config)
    distill.train_student(records, codes, teacher(), config, checkpoint_dir=tmp_path, until=2)
    resumed = distill.train_student(records, codes, teacher(), config, checkpoint_dir=tmp_path)
    assert resumed.metrics["steps"] == 4
    state = whole.network.state_dict()
    assert all(
        torch.equal(value, state[name]) for name, value in resumed.network.state_dict().items()
    )


@pytest.mark.slow
def test_training_brings_the_student_to_its_teacher():
    records, codes = world()
    said = teacher()
    before = {name: getattr(said, name).copy() for name in ARRAYS}
    config = with_training(CONFIG, epochs=0, steps=80, batch_size=8, learning_rate=5e-3)
    student = distill.train_student(records, codes, said, config)
    found = distill.evaluate(student, records, codes, said)
    start = distill.evaluate(fresh(), records, codes, said)
    assert found["teacher_agreement"] > 0.5 > start["teacher_agreement"]
    assert found["teacher_kl"] < 0.5 * start["teacher_kl"]
    assert found["visual_cosine"] > start["visual_cosine"] + 0.2
    assert found["samples"] == 8
    assert all(np.array_equal(getattr(said, name), value) for name, value in before.items())


def test_other_scenes_than_the_teacher_s_are_refused():
    records, codes = world()
    with pytest.raises(SetupError, match="same order"):
        distill.train_student(records[::-1], codes, teacher(), CONFIG)


def test_a_saved_student_says_the_same_after_loading(tmp_path):
    fresh().save(tmp_path)
    again = distill.load_student(tmp_path)
    assert again.config == fresh().config
    one, two = fresh().predict(world()[0]), again.predict(world()[0])
    assert np.array_equal(one.logits, two.logits)
    assert np.array_equal(one.action, two.action)


# ---- sizes


def test_all_sizes_have_one_schema_and_the_paper_s_has_fifty_million():
    schemas = {
        tuple(asdict(getattr(StudentConfig, size)()))
        for size in ("debug", "mini", "single_gpu", "paper")
    }
    assert len(schemas) == 1
    with torch.device("meta"):
        network = StudentNetwork(StudentConfig.paper())
    count = sum(p.numel() for p in network.parameters())
    assert count == pytest.approx(50e6, rel=0.07)
    assert sum(p.numel() for p in network.backbone.parameters()) == pytest.approx(11.2e6, rel=0.01)
    assert sum(p.numel() for p in network.blocks.parameters()) == pytest.approx(37.8e6, rel=0.01)
    assert StudentConfig.paper().grid == (4, 7)
