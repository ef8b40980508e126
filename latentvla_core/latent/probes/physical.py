"""The quality report of physical tokens: how much of the ego motion 2 048 names of motions keep, as
far as it applies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latentvla_core import geometry
from latentvla_core.latent.pairs import Pairs, collect_pairs
from latentvla_core.latent.physical import PhysicalTokenizer
from latentvla_core.latent.probes.linear import one_hot
from latentvla_core.latent.probes.numbers import Report, code_numbers
from latentvla_core.latent.probes.report import Sample, agent_probes, motion_probes
from latentvla_core.training.images import ImageCache
from latentvla_core.types import Array, SceneRecord

GAP_FRAMES = 2  # the transitions of 1 s that latent codes are judged on: two tokens each


def evaluate_physical(
    records: Sequence[SceneRecord],
    tokenizer: PhysicalTokenizer,
    probe_records: Sequence[SceneRecord],
    cache: ImageCache,
) -> Report:
    """The names of `probes.evaluate` that need neither pictures nor a decoder, for the tokens of
    one-second transitions.

    Linear probes are fitted on `probe_records`; `ego_decoded_m` is the mean error of the decoded
    motion, m.
    """
    judged, fitted = (collect_pairs(r, GAP_FRAMES, cache) for r in (records, probe_records))
    codes, path = tokens_of(judged, tokenizer)
    samples = [_sample(pairs, tokenizer) for pairs in (judged, fitted)]
    error_m = np.linalg.norm(path[:, -1, :2] - judged.motion[:, :2], axis=-1)
    report: Report = {"transitions": float(len(judged)), "logs": float(len(np.unique(judged.logs)))}
    report |= code_numbers("ego", codes, len(tokenizer))
    report["ego_decoded_m"] = float(error_m.mean())
    return report | motion_probes(*samples) | agent_probes(*samples)


def tokens_of(pairs: Pairs, tokenizer: PhysicalTokenizer) -> tuple[Array, Array]:
    """(n, gap) int64 tokens of transitions, and (n, gap, 3) the poses they decode to."""
    starts = np.concatenate(
        [np.zeros_like(pairs.waypoints[:, :1]), pairs.waypoints[:, :-1]], axis=1
    )
    codes = tokenizer.encode(geometry.to_local(starts, pairs.waypoints)).astype(np.int64)
    return codes, tokenizer.decode_path(codes)


def _sample(pairs: Pairs, tokenizer: PhysicalTokenizer) -> Sample:
    inputs = {"ego": one_hot(tokens_of(pairs, tokenizer)[0], len(tokenizer))}
    return Sample(inputs, pairs.motion, pairs.agents, pairs.logs)
