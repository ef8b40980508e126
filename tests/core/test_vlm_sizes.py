"""The paper's sizes, counted without memory."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.memory import QUESTION_TOKENS, lora_parameters, memory_plan
from latentvla_core.vlm.network import add_lora, build, build_meta, count_parameters


def test_all_sizes_have_one_schema():
    schemas = {
        tuple(asdict(getattr(VlmConfig, size)()))
        for size in ("debug", "mini", "single_gpu", "paper")
    }
    assert len(schemas) == 1


def test_the_paper_s_network_has_the_published_parameters():
    network = build_meta(VlmConfig.paper())
    assert count_parameters(network) == pytest.approx(3.755e9, rel=1e-3)
    assert count_parameters(network.model.visual) == pytest.approx(0.669e9, rel=1e-3)
    assert network.get_input_embeddings().weight.is_meta


def test_the_memory_plan_follows_its_rules():
    plan = memory_plan(VlmConfig.paper())
    assert plan.trainable == pytest.approx(3.086e9, rel=1e-3)  # vision frozen
    assert plan.optimizer_bytes == 8 * plan.trainable
    assert plan.sequence_length == 3 * 180 + QUESTION_TOKENS + 13
    assert memory_plan(VlmConfig.paper(), devices=8).weights_bytes == plan.weights_bytes // 8
    small = memory_plan(VlmConfig.single_gpu())
    assert small.training_bytes < 24e9 < plan.training_bytes
    assert "3.755 B" in str(plan)


def test_the_count_of_lora_weights_is_what_peft_makes():
    from dataclasses import replace

    config = replace(VlmConfig.debug(), lora_rank=4)
    network, processor = build(config)
    wrapped = add_lora(network, config, processor.action_ids)
    assert count_parameters(wrapped, trainable=True) == lora_parameters(config)
