"""Supervised training: negative log likelihood of the 12 action tokens, everything else masked
(latentvla.md §3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from latentvla_core.errors import DataError
from latentvla_core.training.images import ImageCache
from latentvla_core.training.loop import FitResult, fit
from latentvla_core.training.sinks import MetricSink
from latentvla_core.types import Array
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.model import Vlm
from latentvla_core.vlm.network import add_lora, answer_logits, build
from latentvla_core.vlm.processor import VlmBatch, VlmProcessor
from latentvla_core.vlm.samples import VlmSample, code_frequencies, with_pictures
from latentvla_core.vlm.tokens import NUM_ACTION_TOKENS


def train_vlm(
    samples: Sequence[VlmSample],
    config: VlmConfig | None = None,
    *,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | str | None = None,
    device: torch.device | str = "cpu",
    cache: ImageCache | None = None,
    until: int | None = None,
) -> Vlm:
    """Train on the labelled, valid samples whose pictures can be read; resumes from
    `checkpoint_dir`.

    Args:
        cache: decoded pictures of `config.image_size_wh`, shared between stages or kept in a file;
        default in memory. Not used with `config.batches_ahead`, which decodes on the way.
        until: stop after this many steps of the run (a time slice).
    """
    config = config or VlmConfig.mini()
    pictures = Pictures(config, cache)
    usable = [s for s in pictures.readable(samples) if s.valid and s.codes is not None]
    network, processor = build(config)
    wrapped = add_lora(network, config, processor.action_ids) if config.lora_rank else network
    if config.gradient_checkpointing:
        network.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    codes = (
        np.stack([s.codes for s in usable if s.codes is not None])
        if usable
        else np.zeros((0, NUM_ACTION_TOKENS))
    )
    vlm = Vlm(config, network, processor, code_frequencies(codes))
    result = fit(
        wrapped,  # pyright: ignore[reportArgumentType]
        num_samples=len(usable),
        collate=lambda rows, rng: pictures.batch(processor, [usable[i] for i in rows], codes[rows]),
        loss=lambda batch, step: answer_loss(vlm, batch),
        config=config.training,
        sink=sink,
        checkpoint_dir=checkpoint_dir,
        device=device,
        until=until,
        ahead=config.batches_ahead,
    )
    if config.gradient_checkpointing:
        network.gradient_checkpointing_disable()
    if config.lora_rank:
        vlm.network = wrapped.merge_and_unload()  # pyright: ignore[reportCallIssue]
    vlm.network.eval()
    vlm.metrics = _summary(result, len(usable)) | {"unreadable": float(len(pictures.faults))}
    return vlm


class Pictures:
    """Pictures of training samples: all decoded first and kept, or decoded on their way.

    On its way a sample whose picture cannot be read leaves its batch and is counted by scene; a
    batch that loses every sample is an error, since then the folder is wrong, not a file.
    """

    def __init__(self, config: VlmConfig, cache: ImageCache | None) -> None:
        self.size_wh, self.is_stream = config.image_size_wh, config.batches_ahead > 0
        self.cache = cache or ImageCache(config.image_size_wh)
        self.faults: dict[str, str] = {}

    def readable(self, samples: Sequence[VlmSample]) -> list[VlmSample]:
        """The samples, looked at now or later."""
        return list(samples) if self.is_stream else with_pictures(samples, self.cache)

    def batch(
        self, processor: VlmProcessor, samples: Sequence[VlmSample], codes: Array
    ) -> VlmBatch:
        """A training batch of samples and their (B, 12) codes."""
        if not self.is_stream:
            return processor.batch(samples, self.cache, codes)
        cache = ImageCache(self.size_wh, threads=2)
        looked = with_pictures(samples, cache)
        self.faults |= {s.scene_token: s.reason for s in looked if not s.valid}
        kept = [row for row, sample in enumerate(looked) if sample.valid]
        if not kept:
            raise DataError(
                f"no picture of a whole batch can be read, first: {looked[0].reason}; check the "
                "sensor root",
                file=looked[0].sensor_root,
            )
        return processor.batch([looked[row] for row in kept], cache, codes[kept])


def answer_loss(vlm: Vlm, batch: VlmBatch) -> tuple[Tensor, dict[str, float]]:
    """Mean NLL of the answer tokens over the whole vocabulary, and how often the greedy action was
    right.
    """
    logits = answer_logits(vlm.network, batch)  # (B, L, V)
    loss = functional.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten())
    actions = torch.tensor(vlm.processor.action_ids, device=logits.device)
    chosen = logits[:, :NUM_ACTION_TOKENS, actions].argmax(-1)
    correct = actions[chosen] == batch.labels[:, :NUM_ACTION_TOKENS]
    return loss, {"token_accuracy": float(correct.float().mean())}


def _summary(result: FitResult, num_samples: int) -> dict[str, Any]:
    return {
        **result.metrics,
        "steps": float(result.step),
        "seconds": result.seconds,
        "samples": float(num_samples),
    }
