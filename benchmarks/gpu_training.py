"""Training steps of the VLM for `benchmarks.gpu`: seconds, FLOPs, MFU, in the largest batch that fits."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import torch
from torch.nn import functional

from benchmarks import student_vs_teacher
from benchmarks.gpu_device import HEADROOM, Row, Skipped, free_bytes, peak_gb, peak_of
from latentvla_core.training.config import with_training
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.memory import memory_plan
from latentvla_core.vlm.network import answer_logits, count_parameters
from latentvla_core.vlm.processor import VlmBatch
from latentvla_core.vlm.tokens import NUM_ACTION_TOKENS


def training(device: torch.device, options: argparse.Namespace, *, lora_rank: int = 0) -> list[Row]:
    """Seconds of an optimiser step and MFU, in the largest batch that fits: the language model
    whole, or LoRA.
    """
    config = replace(VlmConfig.debug() if options.tiny else VlmConfig.paper(), lora_rank=lora_rank)
    kind = f"LoRA rank {config.lora_rank}" if config.lora_rank else "language model whole"
    batch = _batch_that_fits(config, device)
    if batch == 0:
        needs = memory_plan(with_training(config, batch_size=1)).training_bytes / 1e9
        raise Skipped(
            f"{kind}: a batch of one needs {needs:.0f} GB, {free_bytes(device) / 1e9:.0f} GB are free"
        )
    vlm, one = student_vs_teacher.teacher(
        config, device, half=bool(config.lora_rank) and device.type == "cuda"
    )
    network = _trainable(vlm.network, config, vlm.processor.action_ids)
    while batch:
        try:
            return [
                _timed_steps(
                    network,
                    vlm,
                    _filled(one, batch, vlm.processor.action_ids),
                    config,
                    kind,
                    options,
                )
            ]
        except torch.cuda.OutOfMemoryError:
            print(f"{kind}: a batch of {batch} does not fit; half of it next", flush=True)
            network.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            batch //= 2
    raise Skipped(f"{kind}: not even one sample fits into {free_bytes(device) / 1e9:.0f} GB")


def _trainable(
    network: torch.nn.Module, config: VlmConfig, action_ids: tuple[int, ...]
) -> torch.nn.Module:
    """The network as `train_vlm` trains it: vision frozen, checkpoints kept, LoRA around the
    language matrices.
    """
    from latentvla_core.vlm.network import add_lora

    network.train()
    if config.freeze_vision:
        network.model.visual.requires_grad_(False)  # type: ignore[union-attr]
    if config.gradient_checkpointing:
        network.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )  # type: ignore[operator]
    return add_lora(network, config, action_ids) if config.lora_rank else network  # type: ignore[arg-type]


def _timed_steps(
    network: torch.nn.Module,
    vlm: object,
    batch: VlmBatch,
    config: VlmConfig,
    kind: str,
    options: argparse.Namespace,
) -> Row:
    """One row: median seconds of an optimiser step on random answers."""
    device = batch.input_ids.device
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=device.type == "cuda")

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = answer_logits(vlm.network, batch)  # type: ignore[attr-defined]
        functional.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = student_vs_teacher.timed(step, options.repeats, device)
    seconds = statistics.median(times) / 1e3
    flops = step_flops(vlm.network, config, batch)  # type: ignore[attr-defined]
    peak = options.peak_tflops or peak_of(device)
    return {
        "what": f"training step, bf16, {kind}",
        "parameters": count_parameters(vlm.network),  # type: ignore[attr-defined]
        "trained": sum(p.numel() for p in weights),
        "batch": len(batch.input_ids),
        "tokens_per_sample": batch.input_ids.shape[1],
        "seconds": seconds,
        "samples_per_s": len(batch.input_ids) / seconds,
        "tflops": flops / seconds / 1e12,
        "mfu": flops / seconds / (peak * 1e12) if peak else None,
        "peak_gb": peak_gb(device),
    }


def step_flops(network: torch.nn.Module, config: VlmConfig, batch: VlmBatch) -> float:
    """FLOPs of one step of the model (see the file's head); vision attention, a few per cent, is
    left out.
    """
    vision = count_parameters(network.model.visual)  # type: ignore[union-attr,arg-type]
    table = network.lm_head.weight.numel()  # type: ignore[union-attr]
    language = count_parameters(network) - vision - table
    samples, length = batch.input_ids.shape
    text, answers = config.text, batch.labels.shape[1]
    products = (
        2 * text.layers * length * text.hidden_size
    )  # causal: half of 4 · length · width a token
    forward = samples * (2 * language * length + products * length + 2 * table * answers)
    backward = (
        forward if config.lora_rank else 2 * forward
    )  # LoRA: gradients of inputs, hardly any of weights
    return (
        forward
        + backward
        + 2 * vision * len(batch.pixel_values) * (1 if config.freeze_vision else 3)
    )


def _batch_that_fits(config: VlmConfig, device: torch.device) -> int:
    """The largest power of two whose planned training memory is free; the plan is an estimate."""
    if device.type != "cuda":
        return 2
    sizes = [2**k for k in range(6, -1, -1)]
    plans = {
        size: memory_plan(with_training(config, batch_size=size)).training_bytes for size in (1, 2)
    }
    each = plans[2] - plans[1]
    return next((s for s in sizes if plans[1] + (s - 1) * each < HEADROOM * free_bytes(device)), 0)


def _filled(one: VlmBatch, count: int, action_ids: tuple[int, ...]) -> VlmBatch:
    """`count` copies of one question, with random answers behind it."""
    chosen = torch.randint(0, len(action_ids), (count, NUM_ACTION_TOKENS + 1))
    answers = torch.tensor(action_ids)[chosen].to(one.input_ids.device)

    def rows(x: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.repeat(count, 1), last.to(x.dtype)], dim=1)

    return VlmBatch(
        rows(one.input_ids, answers),
        rows(one.attention_mask, torch.ones_like(answers)),
        rows(one.mm_token_type_ids, torch.zeros_like(answers)),
        one.pixel_values.repeat(count, 1),
        one.image_grid_thw.repeat(count, 1),
        answers,
    )
