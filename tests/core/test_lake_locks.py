"""One process at a time at a place, and who waits is told for whom; secrets are not told."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latentvla_core.cli import app
from latentvla_core.errors import SetupError
from latentvla_core.lake.locks import held, lock_file, who_works
from latentvla_core.lake.places import without_password

HOLD = """
import sys
from pathlib import Path
from latentvla_core.lake.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path):
    """Another process that works at `place` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "place")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_who_comes_second_is_told_who_works_there_and_stops_where_it_must_not_wait(tmp_path, other):
    with (
        pytest.raises(
            SetupError, match=rf"process {other.pid} on .* works at .*place; wait for it"
        ),
        held(tmp_path / "place", wait=False),
    ):
        raise AssertionError("two at one place")


def test_who_waits_says_so_once_and_goes_on_when_the_first_is_done(tmp_path, other):
    told: list[str] = []
    went_on = threading.Event()

    def second() -> None:
        with held(tmp_path / "place", told.append):
            went_on.set()

    waiting = threading.Thread(target=second)
    waiting.start()
    assert not went_on.wait(0.3)
    other.communicate("")
    waiting.join(timeout=20)
    assert went_on.is_set()
    assert len(told) == 1
    assert f"process {other.pid}" in told[0] and told[0].endswith("waiting for it")


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path, other):
    other.kill()
    other.wait()
    with held(tmp_path / "place", wait=False):
        assert "process" in who_works(tmp_path / "place")


def test_a_process_does_not_wait_for_itself(tmp_path):
    with held(tmp_path / "place"), held(tmp_path / "place", wait=False):
        assert lock_file(tmp_path / "place").exists()


def test_a_note_that_is_no_note_is_another_process(tmp_path):
    lock_file(tmp_path / "place").with_suffix(".json").write_text("[]")
    assert who_works(tmp_path / "place") == "another process"


def test_the_note_tells_no_option(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["latentvla", "demo", "--token=secret"])
    with held(tmp_path / "place"):
        note = json.loads(lock_file(tmp_path / "place").with_suffix(".json").read_text())
    assert note["command"] == "latentvla demo"


def test_two_worlds_are_not_written_to_one_place(tmp_path, other):
    result = CliRunner().invoke(app, ["world", "write", "--out", str(tmp_path / "place")])
    assert isinstance(result.exception, SetupError)
    assert f"process {other.pid}" in str(result.exception)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg2://u:pa5s@h:5432/db", "postgresql+psycopg2://u:***@h:5432/db"),
        ("at postgresql://u:p:a@s@h/db failed", "at postgresql://u:***@h/db failed"),
        ("mysql://h/db?user=u&password=pa5s&x=1", "mysql://h/db?user=u&password=***&x=1"),
        ("https://h/?X-Amz-Security-Token=pa5s'", "https://h/?X-Amz-Security-Token=***'"),
        ("http://h:5000/a@b", "http://h:5000/a@b"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_what_is_secret_in_an_address_is_not_shown(text: str, shown: str):
    assert without_password(text) == shown
