"""`latentvla submission`: the official file from a Parquet table or from the lake's, read back
through the allow-list.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from latentvla_core.cli import app
from latentvla_core.data.v2.submissions import read_submission
from latentvla_core.errors import DataFaults, SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.scoring import lake_plans, read_trajectories, submit

FIRST, SECOND = "0123456789abcdef", "0123456789abcdef0"


def plan(speed: float = 4.0) -> list[list[float]]:
    return [[speed * k / 2, 0.1 * k, 0.01 * k] for k in range(1, 9)]


def table(path: Path, *rows: tuple[str, str, object]) -> Path:
    tokens, names, poses = zip(*rows, strict=True)
    pq.write_table(
        pa.table({"scene_token": list(tokens), "trajectory_id": list(names), "poses": list(poses)}),
        path,
    )
    return path


def lake(root: Path) -> str:
    def row(token: str, name: str, valid: bool = True) -> dict[str, object]:
        poses = np.array(plan(3.0), np.float32) if valid else np.full((8, 3), np.nan, np.float32)
        return {
            "split": "test",
            "shard": 0,
            "trajectory_id": name,
            "scene_token": token,
            "log_name": "log",
            "poses": poses,
            "proposals": np.zeros((0, 8, 3)),
            "logits": np.zeros((0, 6)),
            "chosen": -1,
            "valid": valid,
            "reason": "" if valid else "pictures cannot be read",
            "model_version": "m",
            "made_by": "x",
        }

    place = {"split": "test", "shard": 0}
    stored = Lake(str(root))
    stored.replace(
        "trajectories",
        [row(FIRST, "ipad"), row("f" * 16, "ipad")],
        {**place, "trajectory_id": "ipad"},
    )
    stored.replace(
        "trajectories", [row(FIRST, "blind", valid=False)], {**place, "trajectory_id": "blind"}
    )
    return str(root)


def test_a_parquet_table_becomes_a_v1_submission(tmp_path: Path):
    file = table(
        tmp_path / "T.parquet",
        (FIRST, "mine", plan()),
        ("f" * 16, "mine", plan(2.0)),
        (FIRST, "x", plan()),
    )
    out = tmp_path / "submission.pkl"
    command = [
        "submission",
        "--trajectories",
        str(file),
        "--trajectory-id",
        "mine",
        "--out",
        str(out),
    ]
    done = CliRunner().invoke(app, [*command, "--team-name", "Us", "--country", "CH"])
    assert done.exit_code == 0, done.output
    assert "wrote 2 + 0 plans" in done.output
    made = read_submission(out)
    assert (made.version, made.info.team_name, made.info.country_or_region) == ("v1", "Us", "CH")
    np.testing.assert_array_equal(made.poses()[FIRST], plan())
    read = read_trajectories(out).of_scene  # as `latentvla score` reads it back
    assert set(read) == {FIRST, "f" * 16}


def test_synthetic_scenes_go_into_the_second_stage_of_v2(tmp_path: Path):
    plans = read_trajectories(
        table(tmp_path / "T.parquet", (FIRST, "a", plan()), (SECOND, "a", plan(1.0)))
    )
    with pytest.raises(SetupError, match="synthetic"):
        submit(tmp_path / "s.pkl", plans)
    submit(tmp_path / "s.pkl", plans, version="v2")
    made = read_submission(tmp_path / "s.pkl")
    assert (set(made.first_stage), set(made.second_stage)) == ({FIRST}, {SECOND})


def test_the_lakes_table_becomes_a_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATENTVLA_LAKE", lake(tmp_path / "lake"))
    out = tmp_path / "submission.pkl"
    command = [
        "submission",
        "--split",
        "test",
        "--trajectory-id",
        "ipad",
        "--version",
        "v2",
        "--out",
        str(out),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(
        read_submission(out).poses()[FIRST], np.array(plan(3.0), np.float32)
    )


def test_what_cannot_be_submitted_is_said_in_full(tmp_path: Path):
    root = lake(tmp_path / "lake")
    with pytest.raises(SetupError, match=r"2 trajectory ids \(blind, ipad\)"):
        submit(tmp_path / "s.pkl", lake_plans(root, "test"))
    with pytest.raises(DataFaults, match="pictures cannot be read"):
        submit(tmp_path / "s.pkl", lake_plans(root, "test", "blind"))
    with pytest.raises(SetupError, match="no plans of 'nobody' for split 'test'"):
        lake_plans(root, "test", "nobody")
    bad = [[*plan()[:7], [np.nan, 0.0, 0.0]], plan()[:7]]
    plans = read_trajectories(
        table(tmp_path / "T.parquet", *((f"{k:016x}", "a", p) for k, p in enumerate(bad)))
    )
    with pytest.raises(DataFaults, match=r"(?s)NaN.*\(7, 3\)"):
        submit(tmp_path / "s.pkl", plans)
    assert not (tmp_path / "s.pkl").exists()
    with pytest.raises(SetupError, match="version is 'v3'"):
        submit(tmp_path / "s.pkl", plans, version="v3")  # type: ignore[arg-type]
