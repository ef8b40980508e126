"""Any trajectories table → `submission.pkl` of NAVSIM v1.1 or v2.2, which the official server and
`latentvla score` read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latentvla_core.data.v2.submissions import Plan, Submission, SubmissionInfo, write_submission
from latentvla_core.data.v2.synthetic_scenes import SYNTHETIC_TOKEN_LENGTH
from latentvla_core.errors import DataError, DataFaults, SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.scoring.plans import Plans, check_writable, read_trajectories

Version = Literal["v1", "v2"]


def submit(
    out: str | Path,
    plans: Plans,
    *,
    version: Version = "v1",
    trajectory_id: str = "",
    info: SubmissionInfo | None = None,
) -> Submission:
    """Write the plans of one planner as a submission and return what was written.

    Args:
        plans: of `read_trajectories` (a Parquet file, another submission) or `lake_plans`.
        version: v1: one stage. v2: scenes with a token of 17 characters go into the second stage.
        trajectory_id: whose plans; may be left out when there is only one.
    Raises:
        SetupError: it is not clear whose plans, or v1 is asked for synthetic scenes. DataFaults:
        every plan that is none.
    """
    if version not in ("v1", "v2"):
        raise SetupError(
            f"version is {version!r}; must be v1 (predictions) or v2 (first and second stage)"
        )
    check_writable(out)
    chosen = _checked(_of_planner(plans, trajectory_id))
    second = {token: plan for token, plan in chosen.items() if len(token) == SYNTHETIC_TOKEN_LENGTH}
    if version == "v1" and second:
        raise SetupError(
            f"{len(second)} scenes are synthetic ({next(iter(second))}, …); v1 has none, write --version v2"
        )
    first = {token: plan for token, plan in chosen.items() if token not in second}
    made = Submission(
        version=version, info=info or SubmissionInfo(), first_stage=first, second_stage=second
    )
    write_submission(out, made)
    return made


def _of_planner(plans: Plans, name: str) -> dict[str, Any]:
    """Token → poses or reason, of one trajectory id."""
    names = sorted({name for of_scene in plans.of_scene.values() for name in of_scene})
    if not name and len(names) != 1:
        raise SetupError(
            f"there are {len(names)} trajectory ids ({', '.join(names[:20])}); name one with --trajectory-id"
        )
    if name and name not in names:
        raise SetupError(f"trajectory id {name!r} has no plan; there are {', '.join(names[:20])}")
    chosen = name or names[0]
    return {
        token: of_scene[chosen] for token, of_scene in plans.of_scene.items() if chosen in of_scene
    }


def _checked(found: Mapping[str, Any]) -> dict[str, Plan]:
    """Plans that a server can score: 8 finite poses each. All others at once, as DataFaults."""
    faults = []
    for token, poses in found.items():
        fault = (
            poses
            if isinstance(poses, str)
            else ""
            if np.isfinite(poses).all()
            else "poses contain NaN or infinity"
        )
        faults += [DataError(fault, frame=token, field="poses")] if fault else []
    if faults:
        raise DataFaults(faults)
    return {token: Plan(np.asarray(poses)) for token, poses in found.items()}


def lake_plans(lake: str, split: str, trajectory_id: str = "") -> Plans:
    """Plans of the lake's table `trajectories`. Rows that are not valid keep their reason.

    Raises SetupError when the split has none.
    """
    where: dict[str, Any] = {"split": split} | (
        {"trajectory_id": trajectory_id} if trajectory_id else {}
    )
    rows = Lake(lake).rows(
        "trajectories", where, ["scene_token", "trajectory_id", "poses", "valid", "reason"]
    )
    if not rows:
        whose = f" of {trajectory_id!r}" if trajectory_id else ""
        raise SetupError(
            f"table trajectories in {lake} has no plans{whose} for split {split!r}; materialise them first"
        )
    of_scene: dict[str, dict[str, Any]] = {}
    for row in rows:
        plan = (
            np.asarray(row["poses"], np.float64) if row["valid"] else row["reason"] or "not valid"
        )
        of_scene.setdefault(row["scene_token"], {})[row["trajectory_id"]] = plan
    return Plans(of_scene)


def plans_from(
    trajectories: str | Path | None, lake: str, split: str, trajectory_id: str = ""
) -> Plans:
    """Plans of a file, or of the lake where no file is given (then the split is needed)."""
    if trajectories is not None:
        return read_trajectories(trajectories)
    if not split:
        raise SetupError(
            "no --trajectories FILE given; to take them from the lake, name the split with --split"
        )
    return lake_plans(lake, split, trajectory_id)
