"""Tokenizers: the tiny one, made on the spot, and the one of a checkpoint folder.

The tiny tokenizer is byte-level BPE trained on sentences that `prompts` itself writes, so that
everything between two numbers becomes one token, and so do pairs of digits, which keeps "7.43" and
"12.43" aligned: a question costs about eighty tokens, and a model that starts from nothing learns
to read numbers in minutes. (Qwen's own vocabulary splits every digit; its checkpoint has had time
to learn that.) Training it takes a fraction of a second and gives the same file every time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.types import Command
from latentvla_core.vlm.prompts import SYSTEM, TEMPLATES, MotionState

END_OF_TURN, PADDING, IMAGE_PAD = "<|im_end|>", "<|endoftext|>", "<|image_pad|>"
VISION_START, VISION_END, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"
SPECIAL = (
    PADDING,
    "<|im_start|>",
    END_OF_TURN,
    VISION_START,
    VISION_END,
    "<|vision_pad|>",
    IMAGE_PAD,
    VIDEO_PAD,
)
"""Names the Qwen model family gives its control tokens."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with one placeholder per picture: what a Qwen2.5-VL template renders for system, pictures
and words.
"""


def build_tiny(vocab_size: int = 768) -> Any:
    """A `PreTrainedTokenizerFast` with Qwen's control tokens and `CHAT_TEMPLATE`, action tokens not
    included.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[0-9]{1,2}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_sentences(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        extra_special_tokens=list(SPECIAL[1:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load(folder: Path | str) -> Any:
    """The tokenizer of a local checkpoint folder, as it is there."""
    from transformers import AutoTokenizer

    if not os.path.isdir(folder):
        raise SetupError(
            f"{folder}: no such folder; pretrained_path must name a local Qwen2.5-VL checkpoint folder"
        )
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    missing = [
        name
        for name in SPECIAL
        if tokenizer.convert_tokens_to_ids(name) in (None, tokenizer.unk_token_id)
    ]
    if missing:
        raise SetupError(
            f"{folder}: the tokenizer has no {missing[0]}; it is not one of the Qwen2.5-VL family"
        )
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _sentences() -> Iterator[str]:
    """Prompts over the range of states a car can be in; the words of every template version."""
    rng = np.random.default_rng(0)
    yield from [SYSTEM, "system\n", "user\n", "assistant\n"] * 50
    for _ in range(400):
        numbers = rng.normal(scale=(8, 1, 1, 0.2, 8, 3, 0.3, 8, 3, 0.3, 8, 3, 0.3)).tolist()
        poses = (tuple(numbers[4:7]), tuple(numbers[7:10]), tuple(numbers[10:13]))
        command = Command(int(rng.integers(len(Command))))
        state = MotionState(abs(numbers[0]), (numbers[1], numbers[2]), numbers[3], poses, command)
        yield from (template(state) for template in TEMPLATES.values())
