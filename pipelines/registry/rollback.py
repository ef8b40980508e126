"""`latentvla rollback NAME`: the champion before this one holds the alias again."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any

import typer

from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake
from pipelines.registry.connection import answering, connect
from pipelines.registry.gates import CHAMPION, ROLLED_BACK, champion_before
from pipelines.settings import Settings


def rollback(
    name: Annotated[str, typer.Argument(help="Registered model, for example ipad_student.")],
    to: Annotated[str, typer.Option(help="Version; default: the champion before.")] = "",
) -> None:
    """Give the alias `champion` back to the version that held it before; the gate will not promote
    the present one again.

    Example: latentvla rollback ipad_student
    """
    settings = Settings.from_env()
    with answering(settings, "start MLflow or set MLFLOW_TRACKING_URI, and run again"):
        before, now = roll_back(settings, connect(settings), name, to)
    print(f"{name}: champion is version {now} again, no longer {before}")


def roll_back(settings: Settings, client: Any, name: str, to: str = "") -> tuple[str, str]:
    """(version that lost the alias, version that has it). Raises SetupError when there is none to
    go back to.
    """
    lake = Lake(settings.lake)
    rows = lake.rows("releases", {"name": name})
    now = str(client.get_registered_model(name).aliases.get(CHAMPION, ""))
    target = to or champion_before(rows, now)
    if not now or not target or target == now:
        raise SetupError(
            f"{name} has champion {now or 'none'} and no other version held the alias before;"
            " name one with --to"
        )
    client.set_registered_model_alias(name, CHAMPION, target)
    last = max(rows, key=lambda row: row["decided_us"], default=None)
    row = {
        "name": name, "version": now, "decided_us": time.time_ns() // 1000,
        "decision": ROLLED_BACK, "champion": target, "split": last["split"] if last else "",
        "metric_version": last["metric_version"] if last else "", "scenes": 0,
        "challenger_score": math.nan, "champion_score": math.nan, "difference": math.nan,
        "difference_low": math.nan, "difference_high": math.nan, "reason": "by hand",
        "made_by": last["made_by"] if last else "",
    }  # fmt: skip
    lake.replace("releases", [*rows, row], {"name": name})
    return now, target
