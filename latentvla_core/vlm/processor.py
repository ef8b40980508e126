"""Chat and pictures → tensors, in one class (stack.md §7, pitfalls 1 and 2).

B questions of a batch, S their padded length, n pictures in all, XX
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentvla_core.training.images import ImageCache
from latentvla_core.types import Array
from latentvla_core.vlm import prompts, tokens
from latentvla_core.vlm import tokenizer as tokenizer_names
from latentvla_core.vlm.config import PATCH_PX, Family, VlmConfig
from latentvla_core.vlm.samples import VlmSample

TEXT, IMAGE = 0, 1


class VlmBatch(NamedTuple):
    """What the network reads; `labels` only in training batches."""

    input_ids: Tensor
    """(B, S) int64"""
    attention_mask: Tensor
    """(B, S) int64, 0 at padding."""
    mm_token_type_ids: Tensor
    """(B, S) int32, 0 text, 1 picture. Without it positions silently become one-dimensional."""
    pixel_values: Tensor
    """(n · P, 1176) float32, all pictures of the batch one after the other."""
    image_grid_thw: Tensor
    """(n, 3) int64 patches in time, height, width."""
    labels: Tensor
    """(B, L) token ids that answer the question, the last L columns of `input_ids`; L = 0 for a
    question alone.
    """


class VlmProcessor:
    """Tokenizer, image processor and template of one model; makes batches from samples."""

    def __init__(
        self, config: VlmConfig, tokenizer: Any, image_processor: Any | None = None
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.image_processor = image_processor or load_image_processor(None, config.family)
        self.action_ids = tokens.ids(tokenizer)
        names = (tokenizer_names.IMAGE_PAD, tokenizer_names.END_OF_TURN, tokenizer_names.PADDING)
        self.image_id, self.end_id, self.padding_id = (
            int(i) for i in tokenizer.convert_tokens_to_ids(list(names))
        )
        self._questions: dict[tuple[str, int], Array] = {}

    def save(self, folder: Path | str) -> None:
        self.tokenizer.save_pretrained(str(folder))
        self.image_processor.save_pretrained(str(folder))

    def question_ids(self, sample: VlmSample) -> Array:
        """(S,) token ids of system, pictures and words, up to where the assistant begins to speak."""
        key = (sample.text, len(sample.cameras))
        if key not in self._questions:
            chat = prompts.messages(sample.text, len(sample.cameras))
            text = self.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True
            )
            ids = np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
            repeats = np.where(ids == self.image_id, self.config.tokens_per_view, 1)
            self._questions[key] = np.repeat(ids, repeats)
        return self._questions[key]

    def answer_ids(self, codes: Array) -> Array:
        """(n, L) token ids of (n, 12) codes."""
        answer = np.asarray(self.action_ids, np.int64)[np.asarray(codes, np.int64)]
        if not self.config.learn_end_token:
            return answer
        return np.concatenate([answer, np.full((len(answer), 1), self.end_id, np.int64)], axis=1)

    def pixels(self, pictures: Array) -> tuple[Tensor, Tensor]:
        """(n, H, W, 3) uint8 pictures of the configured size → `pixel_values`, `image_grid_thw`.

        Equal to `Qwen2VLImageProcessorPil` on pictures that need no resizing, but for the whole
        batch at once.
        """
        own = self.image_processor
        patch, merge, frames = own.patch_size, own.merge_size, own.temporal_patch_size
        count, height, width, _ = pictures.shape
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (own.image_mean, own.image_std))
        values = torch.from_numpy(np.ascontiguousarray(pictures)).float()
        values = (values * own.rescale_factor - mean) / std  # (n, H, W, 3)
        rows, columns = height // patch, width // patch
        split = values.view(count, rows // merge, merge, patch, columns // merge, merge, patch, 3)
        split = split.permute(
            0, 1, 4, 2, 5, 7, 3, 6
        )  # (n, rows/2, cols/2, 2, 2, 3, 14, 14): patches of a token together
        split = split.unsqueeze(6).expand(
            *split.shape[:6], frames, patch, patch
        )  # a still picture is two equal frames
        grid = torch.tensor([[1, rows, columns]]).expand(count, 3)
        return split.reshape(count * rows * columns, -1), grid

    def batch(
        self, samples: Sequence[VlmSample], cache: ImageCache, codes: Array | None = None
    ) -> VlmBatch:
        """Questions of valid samples whose pictures are in the cache; with (B, 12) codes, answers
        behind them.
        """
        questions = [self.question_ids(sample) for sample in samples]
        width = max(len(q) for q in questions)
        ids = np.full((len(samples), width), self.padding_id, np.int64)
        mask = np.zeros_like(ids)
        for row, question in enumerate(questions):
            ids[row, width - len(question) :] = question
            mask[row, width - len(question) :] = 1
        answers = np.zeros((len(samples), 0), np.int64) if codes is None else self.answer_ids(codes)
        ids = np.concatenate([ids, answers], axis=1)
        mask = np.concatenate([mask, np.ones_like(answers)], axis=1)
        pictures = [picture for sample in samples for picture in sample.pictures]
        pixel_values, grid = self.pixels(cache.take(cache.indices(pictures)))
        kinds = np.where(ids == self.image_id, IMAGE, TEXT).astype(np.int32)
        ids_, mask_, kinds_, answers_ = (torch.from_numpy(a) for a in (ids, mask, kinds, answers))
        return VlmBatch(ids_, mask_, kinds_, pixel_values, grid, answers_)


def load_image_processor(folder: Path | str | None, family: Family = "qwen2_5_vl") -> Any:
    """Qwen's Pillow processor by class name: the Auto class does not find it without torchvision
    (stack.md §7). Without a folder, the published settings of the family: Qwen3-VL has larger
    patches and no ImageNet colours.
    """
    from transformers import Qwen2VLImageProcessorPil

    if folder is None or not (Path(folder) / "preprocessor_config.json").exists():
        if family == "qwen2_5_vl":
            return Qwen2VLImageProcessorPil()
        half = [0.5, 0.5, 0.5]
        return Qwen2VLImageProcessorPil(
            patch_size=PATCH_PX[family], image_mean=half, image_std=half
        )
    return Qwen2VLImageProcessorPil.from_pretrained(str(folder), local_files_only=True)
