"""What a training reads from a file is what it would read from a list, without being in memory."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from latentvla_core.training.loop import SampleOrder
from latentvla_core.training.spool import Picked, Spool


def items(count):
    rng = np.random.default_rng(0)
    return [{"number": k, "path": rng.normal(size=(k % 4, 3))} for k in range(count)]


def test_a_spool_reads_like_the_list_it_was_made_of(tmp_path):
    expected = items(20)
    spool = Spool(iter(expected), tmp_path / "new")
    assert len(spool) == 20 and bool(spool) and not Spool([])
    for position in (0, 7, -1, np.int64(12)):
        assert spool[position]["number"] == expected[position]["number"]
        assert np.array_equal(spool[position]["path"], expected[position]["path"])
    assert [item["number"] for item in spool[3:9:2]] == [3, 5, 7]
    assert [item["number"] for item in spool] == list(range(20))
    with pytest.raises(IndexError):
        spool[20]


def test_readers_in_any_number_see_the_same_samples():
    spool, order = Spool(items(30)), SampleOrder(30, 7, seed=3)
    batches = [order.at(number) for number in range(9)]

    def read(rows):
        return [spool[int(i)]["number"] for i in rows]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, batches)) == [read(rows) for rows in batches]


@pytest.mark.skipif(sys.platform != "linux", reason="opens /proc/PID/fd")
def test_a_spool_that_travels_to_a_process_is_not_copied():
    spool = Spool(items(30))
    sent = pickle.dumps(spool)
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)[29]['number'])"
    told = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert told.stdout.strip() == b"29" and len(sent) < spool.file_bytes / 2


def test_items_can_be_picked_in_another_order_with_gaps():
    picked = Picked(Spool(items(5)), [3, -1, 0])
    assert [item and item["number"] for item in picked] == [3, None, 0]
    assert len(picked) == 3 and picked[-1]["number"] == 0
    assert [item and item["number"] for item in picked[1:]] == [None, 0]


def test_nothing_is_left_on_the_disk(tmp_path):
    spool = Spool(items(5), tmp_path)
    assert list(tmp_path.iterdir()) == [] and spool[4]["number"] == 4
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        spool[0]


def test_items_are_not_kept_in_memory():
    """A process spools 160 MB and reads all of it without growing by half of that."""
    code = (
        "import resource, numpy as np\n"
        "from latentvla_core.training.spool import Spool\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "spool = Spool(np.full(500_000, k, np.float64) for k in range(40))\n"
        "assert spool.file_bytes > 1.59e8\n"
        "assert [int(part[0]) for part in spool] == list(range(40))\n"
        "print(peak() - before)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    scale = 1024 if sys.platform == "linux" else 1
    assert int(told.stdout) * scale < 80e6
