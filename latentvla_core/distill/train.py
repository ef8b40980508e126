"""Teacher → student. The teacher is a table of what it said (VlmFeatures), so it is not even in
memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.inputs import StudentInputs, StudentScenes
from latentvla_core.distill.losses import distillation_loss
from latentvla_core.distill.model import Student
from latentvla_core.distill.network import StudentNetwork
from latentvla_core.errors import SetupError
from latentvla_core.training.foreign import pretrained
from latentvla_core.training.images import ImageCache
from latentvla_core.training.loop import fit
from latentvla_core.training.sinks import MetricSink
from latentvla_core.types import Array, SceneRecord
from latentvla_core.vlm.features import VlmFeatures
from latentvla_core.vlm.samples import code_frequencies
from latentvla_core.vlm.tokens import CODEBOOK_SIZE, NO_CODE


class StudentBatch(NamedTuple):
    """One training batch of B scenes."""

    inputs: StudentInputs
    prefix: Tensor
    """(B, 12) int64 tokens the student reads: labels for some scenes, the teacher's for the others."""
    labels: Tensor
    """(B, 12) int64, -1 where a scene has none."""
    teacher_codes: Tensor
    teacher_logits: Tensor
    teacher_visual: Tensor
    teacher_action: Tensor


class DistillationData:
    """Scenes that both sides can use, and the batches made of them."""

    def __init__(
        self,
        scenes: StudentScenes,
        labels: Array,
        teacher: VlmFeatures,
        label_prefix_fraction: float,
    ) -> None:
        self.scenes, self.teacher, self.label_prefix_fraction = (
            scenes,
            teacher,
            label_prefix_fraction,
        )
        known = np.all((labels >= 0) & (labels < CODEBOOK_SIZE), axis=1)
        self.labels = np.where(known[:, None], labels, NO_CODE).astype(np.int64)
        self.usable = np.flatnonzero(scenes.valid & teacher.valid)

    def __len__(self) -> int:
        return len(self.usable)

    def batch(self, indices: Array, rng: np.random.Generator) -> StudentBatch:
        """Indices count the usable scenes."""
        rows = self.usable[indices]
        labels, codes = self.labels[rows], self.teacher.codes[rows].astype(np.int64)
        chosen = rng.permutation(len(rows)) < round(self.label_prefix_fraction * len(rows))
        reads_label = chosen & np.all(labels >= 0, axis=1)
        arrays = (
            np.where(reads_label[:, None], labels, codes),
            labels,
            codes,
            self.teacher.logits[rows],
            self.teacher.visual[rows],
            self.teacher.action[rows],
        )
        return StudentBatch(
            self.scenes.batch(rows), *(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)
        )


def train_student(
    records: Sequence[SceneRecord],
    labels: Array,
    teacher: VlmFeatures,
    config: StudentConfig | None = None,
    *,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | str | None = None,
    device: torch.device | str = "cpu",
    cache: ImageCache | None = None,
    until: int | None = None,
) -> Student:
    """Distil into a student with the teacher's feature shapes; resumes from `checkpoint_dir`.

    Args:
        labels: (N, 12) codes, -1 where a scene has none (it then teaches by the teacher's word
        alone).
        teacher: its features of the same records in the same order (`VlmFeatures.aligned`).
        cache: decoded pictures of `config.image_size_wh`, shared or kept in a file; default in
        memory.
        until: stop after this many steps of the run (a time slice).
    """
    _check(records, labels, teacher)
    config = replace(
        config or StudentConfig.mini(),
        feature_width=teacher.width,
        num_visual_tokens=int(teacher.visual.shape[1]),
    )
    scenes = StudentScenes(records, config, cache or ImageCache(config.image_size_wh))
    data = DistillationData(scenes, np.asarray(labels), teacher, config.label_prefix_fraction)
    network = build_network(config)
    result = fit(
        network,
        num_samples=len(data),
        collate=data.batch,
        loss=lambda batch, step: batch_loss(network, batch, config),
        config=config.training,
        sink=sink,
        checkpoint_dir=checkpoint_dir,
        device=device,
        until=until,
    )
    known = data.labels[data.usable]
    frequencies = code_frequencies(known[(known >= 0).all(1)])
    metrics = {
        **result.metrics,
        "steps": float(result.step),
        "seconds": result.seconds,
        "samples": float(len(data)),
    }
    return Student(config, network, frequencies, metrics)


def build_network(config: StudentConfig) -> StudentNetwork:
    """Seeded random weights; the backbone from `config.backbone_path` where one is given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        network = StudentNetwork(config)
    if config.backbone_path:
        from transformers import ResNetBackbone

        network.backbone = pretrained(
            ResNetBackbone, config.backbone_path, heads=True, out_features=["stage4"]
        )
    return network


def batch_loss(
    network: StudentNetwork, batch: StudentBatch, config: StudentConfig
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and its terms."""
    return distillation_loss(
        network(batch.inputs, batch.prefix),
        teacher_codes=batch.teacher_codes,
        teacher_logits=batch.teacher_logits,
        teacher_visual=batch.teacher_visual,
        teacher_action=batch.teacher_action,
        labels=batch.labels,
        config=config,
    )


def _check(records: Sequence[SceneRecord], labels: Array, teacher: VlmFeatures | None) -> None:
    if teacher is None:
        raise SetupError(
            "there are no teacher features; predict with the VLM for the training scenes first"
        )
    tokens = tuple(record.scene_token for record in records)
    if teacher.scene_tokens != tokens or len(labels) != len(tokens):
        raise SetupError(
            f"{len(tokens)} records, {len(labels)} labels and {len(teacher)} teacher rows must be the same scenes in "
            "the same order; use VlmFeatures.aligned(scene tokens)"
        )
