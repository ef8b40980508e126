"""Work side by side: in order, no more than is read, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import count, islice
from pathlib import Path

import pytest

from latentvla_core.closed_loop.pool import in_order


def test_results_come_in_the_order_of_the_work():
    items = [3, 1, 2, 5, 4, 9, 7]
    assert list(in_order(abs, items, workers=2)) == items
    assert list(in_order(abs, items, workers=1)) == items


def test_work_without_end_is_read_only_as_far_as_its_reader_goes():
    read: list[int] = []

    def source():
        for item in count():
            read.append(item)
            yield item

    assert list(islice(in_order(abs, source(), workers=1), 3)) == [0, 1, 2]
    assert len(read) <= 4


def test_a_fault_of_one_item_is_the_readers():
    with pytest.raises(TypeError):
        list(in_order(abs, [1, "two", 3], workers=2))


KILLED = """
import os, sys, time
from latentvla_core.closed_loop.pool import in_order
if __name__ == "__main__":
    first = next(work := in_order(time.sleep, [0.0] * 4 + [600.0] * 4, workers=2))
    from multiprocessing import active_children
    print(*[child.pid for child in active_children()], flush=True)
    list(work)
"""


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be told of does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see processes")
def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, str(script)], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2 and all(map(is_there, workers))
    process.kill()
    process.wait()
    try:
        ends = time.monotonic() + 20.0
        while any(map(is_there, workers)) and time.monotonic() < ends:
            time.sleep(0.05)
        assert not any(map(is_there, workers))
    finally:
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
