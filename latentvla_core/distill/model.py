"""A trained student: predictions with the teacher's interface, and its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.inputs import StudentInputs, StudentScenes
from latentvla_core.distill.network import StudentNetwork
from latentvla_core.errors import SetupError
from latentvla_core.training import artifacts
from latentvla_core.training.images import ImageCache
from latentvla_core.training.loop import to_device
from latentvla_core.types import Array, SceneRecord
from latentvla_core.vlm.features import VlmFeatures, empty


@dataclass(slots=True)
class Student:
    """What training returns, planners read and disks hold."""

    config: StudentConfig
    network: StudentNetwork
    code_frequencies: Array
    """(12, 16) how often each code stood at each position in training: the baseline of
    `evaluation`.
    """
    metrics: dict[str, float] = field(default_factory=dict)
    """Last metrics of its training."""

    @property
    def device(self) -> torch.device:
        return self.network.head.weight.device

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def predict(self, records: Sequence[SceneRecord], batch_size: int = 64) -> VlmFeatures:
        """One row per record, in order: greedy codes, logits and states, from generated tokens
        only.

        Scenes without a readable picture or with a broken state become rows that are not valid and
        say why.
        """
        tokens = [record.scene_token for record in records]
        features = empty(tokens, self.config.num_visual_tokens, self.config.feature_width, "")
        reasons = list(features.reasons)
        for first in range(0, len(records), batch_size):
            cache = ImageCache(self.config.image_size_wh)  # of this batch only
            scenes = StudentScenes(records[first : first + batch_size], self.config, cache)
            reasons[first : first + len(scenes)] = scenes.reasons
            usable = np.flatnonzero(scenes.valid)
            if len(usable):
                self._fill(features, first + usable, scenes.batch(usable))
        return replace(features, reasons=tuple(reasons))

    def _fill(self, features: VlmFeatures, rows: Array, inputs: StudentInputs) -> None:
        self.network.eval()
        output = self.network.generate(to_device(inputs, self.device))
        features.codes[rows] = output.codes.to(torch.int8).cpu().numpy()
        features.logits[rows] = output.logits.float().cpu().numpy()
        features.visual[rows] = output.visual.half().cpu().numpy()
        features.action[rows] = output.action.half().cpu().numpy()
        features.valid[rows] = True

    def save(self, folder: Path | str, extra: Mapping[str, Any] | None = None) -> Path:
        """`config.json` and `model.safetensors`."""
        content = {
            "code_frequencies": self.code_frequencies.tolist(),
            "metrics": self.metrics,
            **(extra or {}),
        }
        return artifacts.save_model(folder, self.network, self.config, content)


def load_student(folder: Path | str, device: torch.device | str = "cpu") -> Student:
    """Read what `Student.save` wrote."""
    config = artifacts.load_config(folder, StudentConfig)
    network = StudentNetwork(config)
    artifacts.load_weights(folder, network)
    network.to(device).eval()
    extra = artifacts.load_extra(folder)
    try:
        frequencies = np.array(extra["code_frequencies"], float)
        return Student(config, network, frequencies, extra["metrics"])
    except (KeyError, TypeError, ValueError) as error:
        raise SetupError(
            f"{folder}: holds a student's weights without its frequencies of codes ({error}); copy"
            " the folder again"
        ) from error
