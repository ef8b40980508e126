"""Named variants of the latent action model: what the ablations of docs/latent-actions.md compare,
each changing one idea.

A preset is a change to a configuration of any size:
`preset("faithful", LatentActionConfig.paper())`. Those marked as a bundle restate somebody else's
method and change several things at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from latentvla_core.errors import SetupError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.physical import PhysicalConfig


@dataclass(frozen=True, slots=True)
class Preset:
    """One named variant."""

    isolates: str
    """The question it answers, in one line."""
    change: Callable[[LatentActionConfig], LatentActionConfig]
    """What it does to a configuration."""


def _set(**changes: Any) -> Callable[[LatentActionConfig], LatentActionConfig]:
    """Fields of the config, or of one of its parts given as a dict."""

    def change(config: LatentActionConfig) -> LatentActionConfig:
        found = {
            n: replace(getattr(config, n), **v) if isinstance(v, dict) else v
            for n, v in changes.items()
        }
        return replace(config, **found)

    return change


FAITHFUL: dict[str, Any] = {
    "compensate": False,
    "action_weight": 0.0,
    "independence_weight": 0.0,
    "leak_weight": 0.0,
    "environment_sectors": False,
    "change_weight": 0.0,
    "soft_start": 0.0,
    "agent_weight": 0.0,
    "cycle_weight": 0.0,
}
"""The article has none of these."""
LAPO: dict[str, Any] = {
    **FAITHFUL,
    "env_source": "none",
    "conditioning": "none",
    "mirror": False,
    "codes_per_transition": 8,
}
"""LAPO: no environment branch, no trajectory, 8 codes of 64 entries, commitment 0.05 [code of
LAPO].
"""

PRESETS: dict[str, Preset] = {
    "default": Preset(
        "ours: two stages, compensated first frame, local environment codes, action term, independence",
        _set(),
    ),
    "faithful": Preset(
        "do our terms matter? those the article lacks are off; mirroring, standardised codes, view of the change stay",
        _set(**FAITHFUL),
    ),
    "no_action_term": Preset(
        "does regressing the motion from the ego codes matter?", _set(action_weight=0.0)
    ),
    "no_correlation_term": Preset(
        "is the variance between codes enough to keep motion out of them?",
        _set(independence_weight=0.0),
    ),
    "no_leak_term": Preset(
        "is it enough that code vectors are uncorrelated with motion?", _set(leak_weight=0.0)
    ),
    "no_independence": Preset(
        "does keeping motion out of the environment codes matter? both terms off",
        _set(independence_weight=0.0, leak_weight=0.0),
    ),
    "no_compensation": Preset(
        "does it matter that geometry shows stage 1 what the trajectory means?",
        _set(compensate=False),
    ),
    "no_compensation_no_dropout": Preset(
        "the same, and nothing makes its decoder look at the trajectory",
        _set(compensate=False, code_dropout=0.0),
    ),
    "no_sectors": Preset(
        "must environment codes be local? each about the whole picture",
        _set(environment_sectors=False),
    ),
    "no_change_term": Preset(
        "must stage 1 predict where the unexpected happens, or are pixels enough?",
        _set(change_weight=0.0),
    ),
    "no_soft_start": Preset("must stage 1 begin with unquantised codes?", _set(soft_start=0.0)),
    "label_free": Preset(
        "do boxes matter? environment codes from pictures and trajectories alone",
        _set(agent_weight=0.0),
    ),
    "no_cycle": Preset(
        "must the encoder learn to read what the decoder draws? (`long` does, `mini` does not)",
        _set(cycle_weight=0.0),
    ),
    "no_mirror": Preset("do mirrored drives help?", _set(mirror=False)),
    "single_stage": Preset(
        "does the environment branch matter? no stage 1, action term kept", _set(env_source="none")
    ),
    "reencode": Preset(
        "environment codes of stage 2's own encoder instead of the frozen stage 1",
        _set(env_source="reencode", environment_sectors=False, compensate=False),
    ),
    "conditioning_token": Preset(
        "is the trajectory ignored unless it is added or shown?",
        _set(compensate=False, conditioning="token"),
    ),
    "conditioning_none": Preset(
        "what does stage 1 learn without the trajectory?",
        _set(compensate=False, conditioning="none"),
    ),
    "gap_0.5s": Preset("half the frame gap", _set(gap_frames=1)),
    "gap_2s": Preset("twice the frame gap", _set(gap_frames=4)),
    **{
        f"codebook_{size}": Preset(
            f"{size} ego codes instead of 16", _set(ego={"codebook_size": size})
        )
        for size in (4, 8, 32, 64, 128, 256)
    },
    "fsq": Preset(
        "a fixed grid that cannot collapse, for both codebooks",
        _set(ego={"kind": "fsq"}, environment={"kind": "fsq"}),
    ),
    "gradient": Preset(
        "codes moved by the optimiser instead of EMA, for both codebooks",
        _set(ego={"kind": "gradient"}, environment={"kind": "gradient"}),
    ),
    "univla": Preset(
        "bundle: UniVLA's code as it is, its traps mended: gradient codes, re-encoding, trajectory as tokens, no extra terms",
        _set(
            **(FAITHFUL | {"code_dropout": 0.0}),
            env_source="reencode",
            conditioning="token",
            mirror=False,
            ego={"kind": "gradient", "standardise": False},
            environment={"kind": "gradient", "standardise": False},
        ),
    ),
    "lapo_vq": Preset(
        "bundle: LAPO, 8 codes of 64 entries, nothing but reconstruction",
        _set(**LAPO, ego={"codebook_size": 64, "commitment": 0.05, "standardise": False}),
    ),
    "lapo_continuous": Preset(
        "bundle: LAPO without the bottleneck: a vector of 8 × 16, the most a probe could find",
        _set(**LAPO, ego={"kind": "continuous"}),
    ),
}
PHYSICAL: dict[str, PhysicalConfig] = {"physical_2048": PhysicalConfig()}
"""Comparators cut out of the trajectories, with nothing to train (latent/physical.py)."""


def preset(name: str, config: LatentActionConfig | None = None) -> LatentActionConfig:
    """The configuration (default: `mini`) changed as the preset says. Raises SetupError that lists
    the names.
    """
    if name not in PRESETS:
        raise SetupError(f"preset {name!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[name].change(config or LatentActionConfig.mini())
