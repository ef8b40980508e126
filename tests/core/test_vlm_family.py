"""Qwen3-VL behind the same interface: it trains, answers twelve codes, is saved, and says why when it
cannot.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from vlm_worlds import scenes

from latentvla_core.errors import SetupError
from latentvla_core.training.config import with_training
from latentvla_core.training.images import ImageCache
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.memory import memory_plan
from latentvla_core.vlm.model import load
from latentvla_core.vlm.network import add_lora, build, build_meta, count_parameters
from latentvla_core.vlm.predict import decode
from latentvla_core.vlm.processor import VlmBatch
from latentvla_core.vlm.samples import build_samples
from latentvla_core.vlm.train import train_vlm

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
SECOND = VlmConfig.debug()
THIRD = replace(
    with_training(SECOND, steps=3, learning_rate=1e-2),
    family="qwen3_vl",
    image_size_wh=(64, 32),
)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drive")
    return build_samples(*scenes(6, folder, seed=3, size_wh=THIRD.image_size_wh), THIRD)


@pytest.fixture(scope="module")
def trained(samples):
    return train_vlm(samples, THIRD)


def test_it_trains_and_answers_like_the_other_family(trained, samples):
    assert type(trained.network).__name__ == "Qwen3VLForConditionalGeneration"
    start, _ = build(THIRD)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(trained.network.parameters(), start.parameters(), strict=True)
    ]
    assert sum(moved) > 0.8 * len(moved)
    found = trained.predict(samples)
    assert found.valid.all()
    assert found.codes.shape == (6, 12)
    assert ((found.codes >= 0) & (found.codes < 16)).all()
    assert found.visual.shape == (6, THIRD.num_visual_tokens, THIRD.text.hidden_size)
    assert np.isfinite(np.asarray(found.action, np.float32)).all()


def test_pictures_reach_its_answer_and_a_scene_alone_is_answered_as_in_a_batch(trained, samples):
    cache = ImageCache(THIRD.image_size_wh)
    whole = trained.processor.batch(samples, cache)
    seen = decode(trained, whole)
    black = decode(trained, whole._replace(pixel_values=torch.zeros_like(whole.pixel_values)))
    assert not torch.allclose(seen.logits, black.logits, atol=1e-4)
    for row in (0, 5):
        alone = decode(trained, VlmBatch(*trained.processor.batch([samples[row]], cache)))
        assert torch.allclose(alone.logits[0, 0], seen.logits[row, 0], atol=1e-4)


def test_a_saved_model_is_of_its_family_and_the_other_is_refused(trained, samples, tmp_path):
    trained.save(tmp_path)
    again = load(tmp_path)
    assert again.processor.image_processor.patch_size == 16
    a, b = again.predict(samples), trained.predict(samples)
    assert np.array_equal(a.codes, b.codes)
    assert np.array_equal(a.logits, b.logits)
    other = replace(
        SECOND,
        backend="pretrained",
        pretrained_path=str(tmp_path / "network"),
        text=replace(SECOND.text, vocab_rows=512),
    )
    with pytest.raises(SetupError, match="model_type is 'qwen3_vl'; a folder of qwen2_5_vl"):
        build(other)


def test_it_is_planned_and_adapted_as_the_other():
    plan = memory_plan(THIRD)
    assert plan.parameters == count_parameters(build_meta(THIRD))
    network, processor = build(replace(THIRD, lora_rank=4))
    wrapped = add_lora(network, replace(THIRD, lora_rank=4), processor.action_ids)
    thin = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert thin
    assert not any("visual" in name for name in thin)


def test_sizes_that_are_no_patches_of_its_are_refused():
    with pytest.raises(ValueError, match="multiples of 32"):
        replace(SECOND, family="qwen3_vl", image_size_wh=(56, 28))
    with pytest.raises(ValueError, match="family 'qwen9' is unknown"):
        replace(SECOND, family="qwen9")
