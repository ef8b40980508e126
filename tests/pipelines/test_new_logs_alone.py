"""One new test log and one new val log, nothing else: nothing is trained, every champion is kept.

The whole line at recipe `debug`, twice: too dear for every run. `make soak` runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from latentvla_core.lake.store import Lake
from latentvla_core.world.write import WorldConfig, WorldTree, write_world

pytestmark = pytest.mark.skipif(
    not os.environ.get("LATENTVLA_SOAK"), reason="two whole lines: set LATENTVLA_SOAK=1"
)
FOLDERS = {"train": "trainval", "val": "trainval", "test": "test"}
LOGS = WorldConfig(logs_train=2, logs_val=2, logs_test=2, seconds_per_log=9.0)


def give(tree: WorldTree, offered: Path, split: str, number: int) -> None:
    """One log of the world appears in the folder of a split."""
    log = tree.log_path(split, tree.logs[split][number])
    (offered / split).mkdir(parents=True, exist_ok=True)
    shutil.copy(log, offered / split / log.name)


def sources(tree: WorldTree, offered: Path) -> str:
    lines = [
        f"  {split}: {{logs: {offered / split}, sensors: {tree.root}/sensor_blobs/{folder},"
        f" maps: {tree.root}/maps}}"
        for split, folder in FOLDERS.items()
    ]
    return "\n".join(["splits:", *lines]) + "\n"


def run(home: Path) -> str:
    env = {
        **os.environ,
        "LATENTVLA_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "LATENTVLA_RECIPE": "debug",
        "LATENTVLA_SHARDS": "2",
        "LATENTVLA_SOURCES": str(home.parent / "sources.yaml"),
    }
    command = [sys.executable, "-m", "latentvla_core", "demo"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def decisions(home: Path) -> dict[str, dict[str, Any]]:
    """The latest row of `releases` of each model."""
    rows = Lake(str(home / "lake")).rows("releases")
    return {row["name"]: row for row in sorted(rows, key=lambda row: row["decided_us"])}


def test_one_new_test_log_and_one_new_val_log_train_nothing_and_keep_every_champion(tmp_path: Path):
    tree = write_world(tmp_path / "world", LOGS)
    offered, home = tmp_path / "offered", tmp_path / "home"
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        for number in range(count):
            give(tree, offered, split, number)
    (tmp_path / "sources.yaml").write_text(sources(tree, offered))
    run(home)
    first, trained = decisions(home), Lake(str(home / "lake")).rows("models")
    give(tree, offered, "val", 1)
    give(tree, offered, "test", 1)
    run(home)
    now = decisions(home)
    print("before", Counter(row["decision"] for row in first.values()))
    print("after ", Counter(row["decision"] for row in now.values()))
    assert Lake(str(home / "lake")).rows("models") == trained
    assert {row["name"] for row in trained} == set(first)  # all that is trained is judged
    assert {row["decision"] for row in now.values()} == {"kept"}
    assert {name for name in now if now[name]["champion"] == first[name]["champion"]} == set(now)
    assert all(now[name]["scenes"] > first[name]["scenes"] for name in now)
    assert "nothing to do" in run(home)
