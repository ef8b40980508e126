"""A language model with its processor and configuration: what training returns, prediction uses and
disks hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from latentvla_core.errors import SetupError
from latentvla_core.training.artifacts import from_dict
from latentvla_core.training.foreign import quiet
from latentvla_core.types import Array
from latentvla_core.vlm import tokenizer as tokenizers
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.features import VlmFeatures
from latentvla_core.vlm.network import count_parameters, load_network
from latentvla_core.vlm.predict import predict
from latentvla_core.vlm.processor import VlmProcessor, load_image_processor
from latentvla_core.vlm.samples import VlmSample

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

CONFIG_FILE, NETWORK_FOLDER = "config.json", "network"


@dataclass(slots=True)
class Vlm:
    """A trained (or fresh) model."""

    config: VlmConfig
    network: Qwen2_5_VLForConditionalGeneration
    processor: VlmProcessor
    code_frequencies: Array
    """(12, 16) how often each code stood at each position in training: the baseline of
    `evaluation`.
    """
    metrics: dict[str, float] = field(default_factory=dict)
    """Last metrics of its training."""

    @property
    def width(self) -> int:
        """D of the features."""
        return int(self.network.lm_head.in_features)

    @property
    def device(self) -> torch.device:
        return self.network.device

    def num_parameters(self) -> int:
        """All weights, the tied table once."""
        return count_parameters(self.network)

    def predict(self, samples: Sequence[VlmSample], batch_size: int = 64) -> VlmFeatures:
        """Greedy codes, logits and states of every sample, see `predict.predict`."""
        return predict(self, samples, batch_size)

    def save(self, folder: Path | str, extra: Mapping[str, Any] | None = None) -> Path:
        """`config.json`, and `network/`: a complete Qwen2.5-VL checkpoint folder (weights,
        tokenizer, processor).
        """
        folder = Path(folder)
        (folder / NETWORK_FOLDER).mkdir(parents=True, exist_ok=True)
        with quiet():
            self.network.save_pretrained(str(folder / NETWORK_FOLDER))
        self.processor.save(folder / NETWORK_FOLDER)
        content = {
            "config_class": "VlmConfig",
            "config": asdict(self.config),
            "code_frequencies": self.code_frequencies.tolist(),
            "metrics": self.metrics,
            "extra": dict(extra or {}),
        }
        unfinished = folder / f".{CONFIG_FILE}.{os.getpid()}"
        unfinished.write_text(json.dumps(content, indent=1))
        os.replace(
            unfinished, folder / CONFIG_FILE
        )  # last, so that a folder with a config is complete
        return folder


def load(folder: Path | str, device: torch.device | str = "cpu") -> Vlm:
    """Read what `Vlm.save` wrote. bf16 configurations are loaded in bf16 on a GPU and in fp32 on a
    CPU.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / CONFIG_FILE).read_text())
        config = from_dict(VlmConfig, content["config"])
        frequencies, metrics = np.array(content["code_frequencies"], float), content["metrics"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SetupError(
            f"{folder}: no readable model ({str(error)[:200]}); give a folder that Vlm.save wrote"
        ) from error
    half = config.training.precision == "bf16" and torch.device(device).type == "cuda"
    network_folder = str(folder / NETWORK_FOLDER)
    network = load_network(network_folder, torch.bfloat16 if half else torch.float32, config.family)
    network.to(device).eval()  # pyright: ignore[reportArgumentType]
    processor = VlmProcessor(
        config,
        tokenizers.load(network_folder),
        load_image_processor(network_folder, config.family),
    )
    return Vlm(config, network, processor, frequencies, metrics)
