"""Rerun recordings hold the drive: read back through rerun's own reader where it is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.site_lake import write_lake
from latentvla_core.errors import SetupError
from latentvla_core.viz.recording import CODES, PICTURES, ROAD, SIGNALS, write_recordings
from latentvla_core.viz.site.options import ViewOptions

pytestmark = pytest.mark.slow


def test_without_the_package_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    lake = write_lake(tmp_path / "lake", 2)
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(SetupError, match="pip install"):
        write_recordings(lake, ViewOptions(out=tmp_path / "out"))


def test_a_recording_has_pictures_plans_codes_and_signals_on_one_timeline(tmp_path):
    pytest.importorskip("rerun", reason="pip install 'latentvla[rerun]'")
    lake = write_lake(tmp_path / "lake", 3, pictures=tmp_path / "pictures")
    paths = write_recordings(lake, ViewOptions(out=tmp_path / "out"))
    assert len(paths) == 1 and paths[0].suffix == ".rrd"
    told = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", "-vv", str(paths[0])],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for wanted in (
        f"/{PICTURES}/CAM_F0",
        f"/{ROAD}/ego",
        f"/{ROAD}/plans/ipad",
        f"/{CODES}/label/1",
        f"/{CODES}/teacher/4",
        f"/{SIGNALS}/speed_mps",
    ):
        assert wanted in told
    assert "drive" in told and "SeriesPoints" in told
    subprocess.run([sys.executable, "-m", "rerun", "rrd", "verify", str(paths[0])], check=True)
