"""Columns that many tables share, and the numbers that their shapes depend on."""

from __future__ import annotations

from latentvla_core.schema import flag, integer, text
from latentvla_core.types import CODEBOOK_SIZE

CODEBOOK = CODEBOOK_SIZE  # entries of the ego codebook

SPLIT = text("split", "train, val, test, or the name of another source; splits never share a log")
SHARD = integer(
    "shard",
    "hash of the log name modulo the number of shards; a shard is replaced whole",
    dtype="int32",
)
MADE_BY = text(
    "made_by", "fingerprint of inputs, recipe and code version; joins `materialisations`"
)
SCENE = text("scene_token", "token of the scene's current frame")
LOG = text("log_name", "log the row comes from")
TIME = integer("timestamp_us", "time of the current frame", "us")
MODEL = text("model_version", "fingerprint of the model that made the row; joins `models`")
VALID = flag("valid", "false: the row could not be computed, see `reason`; never a zero")
REASON = text("reason", "why the row is not valid; empty if it is")
WHERE = (SPLIT, SHARD)
