"""The soak's own parts: a child that is killed, one that fails, a store that is silent or gone."""

from __future__ import annotations

import dataclasses
import random
import socket
import sys
import time

import pytest

from benchmarks.soak import line
from benchmarks.soak.__main__ import table
from benchmarks.soak.children import Child, outcome, value
from benchmarks.soak.database import with_records_in
from benchmarks.soak.faults import Found, free_bytes, hurt, small_disk
from benchmarks.soak.kills import JOBS, RECOVERY, Soak
from benchmarks.soak.store import ObjectStore, free_port
from pipelines.settings import Settings


def test_a_child_hands_back_what_it_did_or_why_not(tmp_path):
    log = tmp_path / "log"
    assert value(lambda: {"rows": 3}, log) == {"rows": 3}
    kind, told, trace = outcome(lambda: 1 / 0, log)
    assert (kind, told) == ("fault", "ZeroDivisionError: division by zero")
    assert "Traceback" in trace
    with pytest.raises(RuntimeError, match="division by zero"):
        value(lambda: 1 / 0, log)


def test_a_child_is_killed_at_work_and_not_once_it_has_ended(tmp_path):
    def wait(ready):
        ready()
        time.sleep(60)

    child = Child.start(wait, tmp_path / "log")
    assert child.wait_until_ready()
    assert child.kill()
    ended = Child.start(lambda ready: None, tmp_path / "log")
    assert not ended.wait_until_ready()
    time.sleep(0.1)
    assert not ended.kill(), "it had ended: no kill"
    assert Child.start(lambda ready: wait_and_die(), tmp_path / "log").result() == ("died",)


def wait_and_die():
    import os

    os.kill(os.getpid(), 9)


def test_every_stage_of_the_little_line_maintenance_and_recovery_are_killed():
    assert set(JOBS) == {*line.LITTLE, "compact", "vacuum", RECOVERY}
    assert {"pdm_scores", "releases", line.PLANNER} <= set(JOBS)


class Unchecked(Soak):
    """One whose lake is not there to be looked at."""

    def check(self, told: str) -> None: ...


def soak(tmp_path) -> Soak:
    return Unchecked(None, tmp_path / "log", random.Random(0), say=lambda text: None)  # pyright: ignore


def test_faults_are_counted_by_how_they_ended(tmp_path):
    made, report = soak(tmp_path), {}
    for ended in (("done", 1), ("fault", "SetupError: full", ""), ("died",)):
        hurt(made, report, "disk full", ended)
    found = report["disk full"]
    assert (found.times, found.unhurt) == (3, 1)
    assert dict(found.refused) == {"SetupError": 1, "died": 1}
    assert made.wrong == ["disk full: the process died without a word"]
    assert "| disk full | 3 | 1 | 1 × SetupError, 1 × died |" in table(made, report)
    assert table(made, {"x": Found()}).count("\n") == 3


ECHO = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
def echo(client):
    while data := client.recv(100):
        client.sendall(data)
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def server():
    """One that answers every line with itself, behind the door."""
    port = free_port()
    made = ObjectStore([sys.executable, "-S", "-c", ECHO, str(port)], port)
    yield made
    made.close()


def ask(connection: socket.socket, text: bytes = b"hello") -> bytes:
    connection.sendall(text)
    return connection.recv(100)


def reach(server: ObjectStore) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def test_a_silent_store_answers_later_and_one_that_restarts_cuts_and_refuses(server):
    with reach(server) as connection:
        assert ask(connection) == b"hello"
        server.leave("silent")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ask(connection)
        server.come_back("silent")
        connection.settimeout(20)
        assert connection.recv(100) == b"hello", "what was sent has waited"
        server.leave("restarted")
        assert connection.recv(100) == b"", "what was open is cut"
        with pytest.raises(OSError), reach(server):
            pass
        server.come_back("restarted")
    with reach(server) as again:
        assert ask(again) == b"hello"


def test_a_child_that_says_nothing_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.soak.children.LONGEST_S", 0.2)
    assert outcome(lambda: time.sleep(60), tmp_path / "log") == ("died",)


def test_the_same_soak_keeps_its_records_in_the_database(tmp_path):
    class Base:
        def url(self, name):
            return f"postgresql://here/{name}"

    settings = Settings.from_env({"LATENTVLA_HOME": str(tmp_path)})
    own = with_records_in(dataclasses.replace(soak(tmp_path), settings=settings), Base())  # pyright: ignore
    assert own.settings.mlflow_uri == "postgresql://here/mlflow"
    assert own.settings.home == settings.home


def test_a_small_disk_is_full_when_it_says_so(tmp_path):
    with small_disk(tmp_path / "small", 1 << 20) as mounted:
        if not mounted:
            pytest.skip("this user may not mount a file system")
        assert free_bytes(tmp_path / "small") <= 1 << 20
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "small" / "file").write_bytes(bytes(2 << 20))
    assert not (tmp_path / "small" / "file").exists(), "it is unmounted again"


def test_a_line_without_its_neighbours_asks_for_nothing_of_theirs():
    known = set(line.LITTLE)
    for stage in line.LITTLE.values():
        assert {*stage.deps, *stage.after, *stage.gates} <= known, stage.name
