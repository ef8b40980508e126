"""`latentvla score`: a NAVSIM tree and trajectories on disk → scores on disk, in one or two stages;
submission files.
"""

from latentvla_core.scoring.plans import Plans, check_writable, read_trajectories
from latentvla_core.scoring.submit import lake_plans, submit
from latentvla_core.scoring.tree import ScoreReport, score_tree
from latentvla_core.scoring.two_stage import TwoStageReport, score_two_stage

__all__ = [
    "Plans",
    "ScoreReport",
    "TwoStageReport",
    "check_writable",
    "lake_plans",
    "read_trajectories",
    "score_tree",
    "score_two_stage",
    "submit",
]
