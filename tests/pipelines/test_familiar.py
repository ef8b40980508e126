"""A split whose pictures are unlike the training's is warned of; nothing stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from label_rows import label

from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES
from pipelines.assets.latent_actions import familiar
from pipelines.dagster_assets import _result


def labelled(
    lake: Lake, split: str, distances: list[float], made_by: str, finished_us: int
) -> None:
    """One shard labelled once: its rows and the record of it."""
    place = {"split": split, "shard": 0, "model_version": made_by}
    rows = [
        label(f"{split}{i}", **place, made_by=made_by, training_distance=distance)
        for i, distance in enumerate(distances)
    ]
    lake.replace("latent_actions", [{**row, "shard": 0} for row in rows], place)
    zero: dict[str, Any] = {"string": ""}
    record = {c.name: zero.get(c.dtype, 0) for c in TABLES["materialisations"].columns}
    record |= {"asset": "latent_actions", "partition": f"{split}-00", "made_by": made_by}
    lake.append("materialisations", [{**record, "finished_us": finished_us}])


def test_a_split_unlike_the_training_is_named_with_its_share(tmp_path: Path):
    lake = Lake(str(tmp_path))
    labelled(lake, "val", [0.3] * 98 + [1.1] * 2, "new", 2)
    labelled(lake, "real", [0.9, 1.5, 3.0, 7.0], "new", 2)
    verdict = familiar(lake)
    (told,) = verdict.faults
    assert "split real: 75% of 4 transitions are unlike the pictures" in told
    assert "latent_action_model new" in told
    result = _result("pictures_are_familiar", verdict)
    assert (result.passed, result.severity.value) == (False, "WARN")


def test_labels_of_an_older_model_count_no_more(tmp_path: Path):
    lake = Lake(str(tmp_path))
    labelled(lake, "real", [9.0, 9.0], "old", 1)
    assert familiar(lake).faults
    labelled(lake, "real", [0.5, 0.5], "new", 2)
    assert familiar(lake).faults == []


def test_a_lake_without_labels_has_nothing_to_warn_of(tmp_path: Path):
    assert familiar(Lake(str(tmp_path))).faults == []
