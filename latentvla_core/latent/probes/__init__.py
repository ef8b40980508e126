"""Do the codes mean motion? The quality report and the probes it is made of. `latent.quality` judges
it.
"""

from latentvla_core.latent.environment.agents import AGENT_AXES, agent_motion
from latentvla_core.latent.pairs import AXES
from latentvla_core.latent.probes.held_out import HeldOut
from latentvla_core.latent.probes.linear import (
    cross_predict,
    folds_of,
    one_hot,
    predict,
    r_squared,
    ridge,
)
from latentvla_core.latent.probes.numbers import (
    Report,
    code_numbers,
    mutual_information,
    redundancy,
    stability,
)
from latentvla_core.latent.probes.report import evaluate, report_on, report_on_stage_one, transfer
from latentvla_core.latent.probes.run import all_codes
from latentvla_core.latent.probes.stage_one import stage_one_use

__all__ = [
    "AGENT_AXES",
    "AXES",
    "HeldOut",
    "Report",
    "agent_motion",
    "all_codes",
    "code_numbers",
    "cross_predict",
    "evaluate",
    "folds_of",
    "mutual_information",
    "one_hot",
    "predict",
    "r_squared",
    "redundancy",
    "report_on",
    "report_on_stage_one",
    "ridge",
    "stability",
    "stage_one_use",
    "transfer",
]
