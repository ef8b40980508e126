"""The time plan: its operations are those that torch counts, its rules those of the schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from vlm_worlds import scenes

from latentvla_core.training.config import with_training
from latentvla_core.training.images import ImageCache
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.duration import sample_flops, text_flops, time_plan
from latentvla_core.vlm.model import Vlm
from latentvla_core.vlm.network import build
from latentvla_core.vlm.samples import build_samples
from latentvla_core.vlm.train import answer_loss

torch.set_num_threads(1)


def counted(config: VlmConfig, folder) -> tuple[int, int]:
    """Operations of one sample forward and backward as torch counts them, and its question's words."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    records, codes = scenes(1, folder, size_wh=config.image_size_wh)
    samples = build_samples(records, codes, config)
    network, processor = build(config)
    vlm = Vlm(config, network.train(), processor, np.full((12, 16), 1 / 16))
    batch = processor.batch(samples, ImageCache(config.image_size_wh), codes)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss, _ = answer_loss(vlm, batch)
        if loss.requires_grad:
            loss.backward()
    pictures = len(config.cameras) * config.tokens_per_view
    return counter.get_total_flops(), batch.input_ids.shape[1] - pictures - 13


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_operations_are_those_that_torch_counts(family, is_frozen, tmp_path):
    size = (112, 56) if family == "qwen2_5_vl" else (128, 64)
    config = replace(VlmConfig.mini(), family=family, image_size_wh=size, freeze_vision=is_frozen)
    found, words = counted(config, tmp_path)
    assert sample_flops(config, words) == pytest.approx(found, rel=0.1)


def test_a_plan_follows_epochs_steps_batches_and_devices():
    config = with_training(VlmConfig.paper(), epochs=3.0, steps=0, batch_size=16, accumulate=8)
    plan = time_plan(config, 103_288, 4e14, devices=8)
    assert plan.steps == round(3 * 103_288 / 128)
    assert plan.step_flops == 128 * sample_flops(config)
    assert time_plan(config, 103_288, 4e14).hours == pytest.approx(8 * plan.hours)
    assert time_plan(with_training(config, steps=10), 103_288, 4e14).steps == 10
    assert "training on 8" in str(plan)


def test_a_paper_step_is_six_operations_a_weight_and_token_and_what_freezing_saves():
    paper = VlmConfig.paper()
    length = 3 * 180 + 160 + 13
    text = text_flops(paper.text, length)
    assert text == pytest.approx(2 * 2.77e9 * length, rel=0.1)  # without the table
    whole = replace(paper, freeze_vision=False, gradient_checkpointing=False)
    frozen = replace(whole, freeze_vision=True)
    assert sample_flops(frozen) < 0.8 * sample_flops(whole)
    assert sample_flops(replace(frozen, lora_rank=8)) < 0.8 * sample_flops(frozen)
    assert sample_flops(replace(frozen, gradient_checkpointing=True)) > 1.2 * sample_flops(frozen)


@pytest.mark.parametrize("wrong", [(0, 1e12, 1), (10, 0.0, 1), (10, 1e12, 0)])
def test_a_plan_of_nothing_is_refused(wrong):
    scenes_, rate, devices = wrong
    with pytest.raises(ValueError, match="must be above 0"):
        time_plan(VlmConfig.mini(), scenes_, rate, devices=devices)


@pytest.mark.slow
def test_the_benchmark_takes_its_rate_from_the_first_shape(tmp_path, monkeypatch, capsys):
    from benchmarks import vlm_steps

    small = with_training(VlmConfig.debug(), batch_size=2, log_every=1)
    drawn = scenes(4, tmp_path, size_wh=small.image_size_wh)
    wide = replace(small, text=replace(small.text, ffn_size=256))
    monkeypatch.setattr(vlm_steps, "shapes", lambda: {"one": small, "two": wide})
    monkeypatch.setattr(vlm_steps, "samples_of", lambda out, config: build_samples(*drawn, config))
    found = vlm_steps.report(tmp_path, steps=2)
    (plan_s, spent), (other_s, _) = found.values()
    assert plan_s == pytest.approx(spent.step_s)
    assert other_s > plan_s
    assert spent.step_s > spent.load_s >= 0.0
    assert "rate of the first shape" in capsys.readouterr().out
