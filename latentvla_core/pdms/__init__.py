"""The PDM score: PDMS (NAVSIM v1.1) and EPDMS (v2.2) of any trajectories, without the devkit.

`build` turns a scene into a `World` (plain arrays), `score_trajectories` scores plans in worlds,
`summarize_table` says what their mean is a mean of. Names are loaded when first used, so that
`import latentvla_core.pdms` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES
    from latentvla_core.pdms.motion.tracker import simulate
    from latentvla_core.pdms.score import ScoreConfig, score_trajectories
    from latentvla_core.pdms.summary import IncompleteError, Summary, summarize, summarize_table
    from latentvla_core.pdms.table import ScoreTable
    from latentvla_core.pdms.two_stage import StageGroup, StageScene, two_stage_score
    from latentvla_core.pdms.world import World, build

__all__ = [
    "METRIC_VERSIONS",
    "SUB_SCORES",
    "IncompleteError",
    "ScoreConfig",
    "ScoreTable",
    "StageGroup",
    "StageScene",
    "Summary",
    "World",
    "build",
    "score_trajectories",
    "simulate",
    "summarize",
    "summarize_table",
    "two_stage_score",
]
_HOME = {
    **dict.fromkeys(["METRIC_VERSIONS", "SUB_SCORES"], "metrics"),
    **dict.fromkeys(["ScoreConfig", "score_trajectories"], "score"),
    **dict.fromkeys(["IncompleteError", "Summary", "summarize", "summarize_table"], "summary"),
    **dict.fromkeys(["StageGroup", "StageScene", "two_stage_score"], "two_stage"),
    **dict.fromkeys(["World", "build"], "world"),
    "ScoreTable": "table",
    "simulate": "motion.tracker",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
