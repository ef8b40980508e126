"""Codes 0 … 15 ↔ tokens `<ACT_1>` … `<ACT_16>`: the only file that knows the strings (latentvla.md
§3.2).

The ids behind the strings belong to the tokenizer and are always asked from it: 151 665 … 151 680
in the published Qwen2.5-VL vocabulary, something else in the tiny one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import CODEBOOK_SIZE, Array
from latentvla_core.types import NUM_ACTION_TOKENS as NUM_ACTION_TOKENS

NO_CODE = -1
_PATTERN = re.compile(r"<ACT_(\d+)>")


def token_of(code: int) -> str:
    """Code i is written <ACT_{i+1}>."""
    if not 0 <= code < CODEBOOK_SIZE:
        raise DataError(
            f"code {code} is outside 0 … {CODEBOOK_SIZE - 1}; label the scene again", field="codes"
        )
    return f"<ACT_{code + 1}>"


def all_tokens() -> list[str]:
    """The 16 strings in the order of their codes."""
    return [token_of(code) for code in range(CODEBOOK_SIZE)]


def encode(codes: Sequence[int] | Array) -> str:
    """(n,) codes → the answer text, tokens without anything between them."""
    return "".join(token_of(int(code)) for code in codes)


def decode(text: str) -> Array:
    """Answer text → (n,) int8 codes. Anything but action tokens is an error: masked decoding cannot
    produce it.
    """
    numbers = [int(n) for n in _PATTERN.findall(text)]
    if _PATTERN.sub("", text).strip() or any(not 1 <= n <= CODEBOOK_SIZE for n in numbers):
        raise DataError(
            f"answer {text!r} holds more than <ACT_1> … <ACT_{CODEBOOK_SIZE}>; decode under the mask"
        )
    return np.array(numbers, np.int8) - np.int8(1)


def add_to(tokenizer: Any) -> int:
    """Register the 16 strings as special tokens, which are never split; returns how many were new."""
    return int(tokenizer.add_tokens(all_tokens(), special_tokens=True))


def ids(tokenizer: Any) -> tuple[int, ...]:
    """Token id of each code, from the tokenizer."""
    found = tokenizer.convert_tokens_to_ids(all_tokens())
    if (
        None in found or len(set(found)) != CODEBOOK_SIZE
    ):  # unknown strings become None or all the same id
        raise SetupError(
            "the tokenizer does not know the action tokens; call vlm.tokens.add_to(tokenizer) first"
        )
    return tuple(int(i) for i in found)
