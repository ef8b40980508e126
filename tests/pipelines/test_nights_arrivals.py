"""An upload is one run however slowly it comes; what is told is told once."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from latentvla_core.lake.identity import content_key
from pipelines.nights.arrivals import GIVEN_UP_S, QUIET_S, Arrivals, decide, is_whole
from pipelines.nights.messages import Message, tell
from pipelines.nights.retraining import plan


class Folder:
    """A folder of logs that a sensor looks at every five minutes."""

    def __init__(self, path) -> None:
        self.path, self.cursor, self.now_s, self.runs = path, "", 0.0, list[str]()
        self.reason = ""

    def put(self, name: str, share: float = 1.0) -> None:
        whole = pickle.dumps([{"frame": k, "pad": "x" * 900} for k in range(400)])
        (self.path / f"{name}.pkl").write_bytes(whole[: int(len(whole) * share)])

    def tick(self, after_s: float = 300.0) -> None:
        self.now_s += after_s
        listing = [
            {"log_name": f.stem, "path": str(f), "content_key": content_key(f)}
            for f in sorted(self.path.glob("*.pkl"))
        ]
        arrivals, decision = decide(Arrivals.read(self.cursor), listing, self.now_s)
        self.cursor, self.reason = arrivals.written(), decision.reason
        if decision.run_key:
            self.runs.append(decision.run_key)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_half_three_quarters_and_the_whole_upload_are_one_run(folder):
    for share in (0.5, 0.75, 1.0):
        folder.put("a", share)
        folder.tick()
        folder.tick()
    folder.tick()
    assert len(folder.runs) == 1
    folder.put("b")
    for _ in range(3):
        folder.tick()
    assert len(folder.runs) == 2
    assert folder.reason == "2 logs, none of them new"


def test_a_log_that_still_grows_holds_the_others_back_and_is_named(folder):
    folder.put("a")
    folder.put("b", 0.5)
    folder.tick()
    folder.tick()
    assert folder.runs == [] and folder.reason == "1 of 2 logs are on their way, b first"


def test_a_log_that_stays_broken_is_left_to_ingest(folder):
    folder.put("b", 0.5)
    folder.tick()
    folder.tick(QUIET_S + 1)
    assert folder.runs == []
    folder.tick(GIVEN_UP_S)
    assert len(folder.runs) == 1


def test_a_log_that_is_taken_away_and_brought_back_is_processed_again(folder):
    folder.put("a")
    folder.put("b")
    for _ in range(2):
        folder.tick()
    (folder.path / "b.pkl").unlink()
    for _ in range(2):
        folder.tick()
    folder.put("b")
    for _ in range(3):
        folder.tick()
    assert len(folder.runs) == len(set(folder.runs)) == 3


def test_a_cursor_of_another_version_begins_anew():
    for cursor in (None, "", "0123456789abcdef", "[1]", '{"seen": 3}'):
        assert Arrivals.read(cursor) == Arrivals()


def test_a_sequence_is_whole_when_its_poses_end_with_a_line(tmp_path):
    assert not is_whole(tmp_path / "nothing")
    (tmp_path / "poses.csv").write_text("t,x\n1,2")
    assert not is_whole(tmp_path)
    (tmp_path / "poses.csv").write_text("t,x\n1,2\n")
    assert is_whole(tmp_path)


MESSAGE = Message(event="run_failed", title="night failed", text="disk full", key="run-1")


def test_a_message_goes_to_file_command_and_web_hook(tmp_path):
    got = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.handle_request, daemon=True).start()
    script = tmp_path / "mail.py"
    script.write_text(
        "import os, sys; open(sys.argv[1], 'w').write(os.environ['LATENTVLA_TITLE'] + sys.stdin.read())"
    )
    env = {
        "LATENTVLA_TELL_URL": f"http://127.0.0.1:{server.server_port}/hook",
        "LATENTVLA_TELL_COMMAND": f"{sys.executable} {script} {tmp_path / 'mailed'}",
        "LATENTVLA_TELL_FILE": str(tmp_path / "told.jsonl"),
    }
    assert tell(MESSAGE, env) == []
    assert got[0]["text"] == "night failed\ndisk full" and got[0]["event"] == "run_failed"
    assert (tmp_path / "mailed").read_text() == "night faileddisk full"
    assert json.loads((tmp_path / "told.jsonl").read_text())["key"] == "run-1"
    server.server_close()


def test_a_receiver_that_is_away_stops_nothing_and_is_named(tmp_path):
    env = {
        "LATENTVLA_TELL_URL": "ftp://somewhere",
        "LATENTVLA_TELL_COMMAND": f"{sys.executable} -c 'raise SystemExit(3)'",
        "LATENTVLA_TELL_FILE": str(tmp_path / "told.jsonl"),
    }
    faults = tell(MESSAGE, env)
    assert [fault.split()[0] for fault in faults] == [
        "LATENTVLA_TELL_URL",
        "LATENTVLA_TELL_COMMAND",
    ]
    assert (tmp_path / "told.jsonl").is_file()


def test_a_night_trains_what_is_stale_or_says_why_not():
    models = {"vlm": None}
    stale = [("frames", "a-00"), ("vlm", ""), ("frames", "a-01")]
    assert plan(stale, models, 200, 100, []).assets == ("frames", "vlm")
    assert "run r1 works on this home" in plan(stale, models, 200, 100, ["r1"]).reason
    assert "nothing is stale" in plan([], models, 200, 100, []).reason
    assert "3 new training scenes are less than 5%" in plan(stale, models, 103, 100, []).reason
    assert plan(stale, models, 100, 100, []).assets, "a changed recipe trains without new data"
    assert plan(stale, models, 3, 0, []).assets, "the first training needs no threshold"
