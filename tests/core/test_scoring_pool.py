"""Many processes: results in order, the same bytes, and an error that says what to do when one is
killed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial
from multiprocessing import get_all_start_methods
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.layout import DataRoot
from latentvla_core.errors import LatentVLAError, SetupError
from latentvla_core.scoring import score_tree
from latentvla_core.scoring.pool import START, shared_out, start_method
from latentvla_core.world.write import WorldConfig, WorldTree, write_world

pytestmark = pytest.mark.slow

METHODS = get_all_start_methods()


def power(base: int, exponent: int) -> int:
    return base**exponent


def killed(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refused(number: int) -> int:
    if number == 2:
        raise SetupError("two is refused")
    return number


@pytest.mark.parametrize("method", METHODS)
def test_results_come_in_the_order_of_the_jobs(monkeypatch, method):
    monkeypatch.setenv(START, method)
    seen = []
    jobs = [(n,) for n in range(7)]
    out = shared_out(
        partial(power, 3), jobs, 2, progress=lambda done, total: seen.append((done, total))
    )
    assert list(out) == [3**n for n in range(7)]
    assert seen == [(n, 7) for n in range(1, 8)]


def test_one_worker_stays_in_this_process():
    assert list(shared_out(lambda n: (n, os.getpid()), [(1,), (2,)], 1)) == [
        (1, os.getpid()),
        (2, os.getpid()),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
def test_forked_processes_inherit_what_was_warmed(monkeypatch):
    monkeypatch.setenv(START, "fork")
    warmed = []
    work = lambda n: (n, list(warmed))  # noqa: E731 -- cannot be pickled: a forked process needs no pickle of it
    assert list(shared_out(work, [(1,), (2,)], 2, warm=lambda: warmed.append("map"))) == [
        (1, ["map"]),
        (2, ["map"]),
    ]


def test_an_error_of_the_work_comes_as_it_is(monkeypatch):
    monkeypatch.setenv(START, METHODS[0])
    out = shared_out(refused, [(1,), (2,), (3,)], 2)
    assert next(out) == 1
    with pytest.raises(SetupError, match="two is refused"):
        next(out)


def test_a_killed_process_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setenv(START, METHODS[0])
    with pytest.raises(LatentVLAError, match="fewer --workers"):
        list(shared_out(killed, [(1,), (2,)], 2))


def test_how_processes_start(monkeypatch):
    monkeypatch.delenv(START, raising=False)
    monkeypatch.setattr("latentvla_core.scoring.pool.THREADED", ())
    if sys.platform == "linux" and threading.active_count() == 1:
        assert start_method() == "fork"
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert start_method() != "fork"
    finally:
        done.set()
        other.join()
    monkeypatch.setenv(START, "threads")
    with pytest.raises(SetupError, match="must be one of"):
        start_method()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> WorldTree:
    """Three test logs of a few scenes."""
    config = WorldConfig(
        seed=8, logs_train=1, logs_val=0, logs_test=3, seconds_per_log=7.5, cameras=(), workers=1
    )
    return write_world(tmp_path_factory.mktemp("pool") / "tree", config)


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_the_same_bytes_for_any_number_of_processes(tree, tmp_path, monkeypatch, method):
    monkeypatch.setenv(START, method)
    logs = DataRoot.find(tree.root).logs("test")
    tokens = [
        scene.token
        for scene in iter_scenes(logs, SceneFilter(num_future_frames=8, frame_interval=1))
    ]
    assert len(tokens) >= 6
    straight = np.stack([np.arange(1, 9) * 2.0, np.zeros(8), np.zeros(8)], axis=-1)
    rows = [(token, f"plan {k}", (k * straight).tolist()) for token in tokens for k in range(3)]
    rows += [
        (tokens[0], "short", straight[:7].tolist()),
        ("no such scene", "plan 0", straight.tolist()),
    ]
    columns = dict(
        zip(
            ("scene_token", "trajectory_id", "poses"),
            map(list, zip(*rows, strict=True)),
            strict=True,
        )
    )
    pq.write_table(pa.table(columns), tmp_path / "T.parquet")
    written: list[bytes] = []
    for workers in (1, 3):
        out = Path(tmp_path / f"{workers}.parquet")
        score_tree(tree.root, "test", tmp_path / "T.parquet", "epdms", out, workers=workers)
        written.append(out.read_bytes())
    assert written[0] == written[1]
    assert pq.read_table(tmp_path / "1.parquet").num_rows == len(rows)
