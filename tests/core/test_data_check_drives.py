"""Drives held against their pictures, and the doctor's look at a folder of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from drives import arc, write_drive
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from latentvla_core.cli import app
from latentvla_core.data import format_of
from latentvla_core.data.checks.drives import SCENES, SENTENCES, check_drives
from latentvla_core.data.checks.findings import Findings, Level, Report
from latentvla_core.errors import DataError

READ = format_of("frames_poses").read


def noisy(folder: Path) -> Path:
    """Pictures that have nothing in common."""
    rng = np.random.default_rng(0)
    for path in (folder / "frames").iterdir():
        Image.fromarray(rng.integers(0, 256, (36, 64, 3), np.uint8)).save(path)
    return folder


def still(rows: np.ndarray) -> np.ndarray:
    return rows * [1, 0, 0, 0]


def test_a_car_that_stands_while_pictures_change_is_refused_and_a_switch_takes_it(tmp_path: Path):
    drive = noisy(write_drive(tmp_path / "drive", still(arc(8.0))))
    with pytest.raises(DataError, match=r"poses\.csv, field x: the car stands .* while pictures"):
        READ(drive, "drive")
    (drive / "sequence.yaml").write_text("pictures_checked: false\n")
    assert READ(drive, "drive")[1] == []


def test_metres_in_kilometres_are_noticed_by_the_pictures(tmp_path: Path):
    drive = noisy(write_drive(tmp_path / "drive", arc(8.0) * [1, 1e-3, 1e-3, 1]))
    with pytest.raises(DataError, match="are x, y in metres"):
        READ(drive, "drive")


def test_a_car_that_moves_while_pictures_stay_the_same_is_refused(tmp_path: Path):
    drive = write_drive(tmp_path / "drive", arc(8.0))
    one = (drive / "frames" / "000000.jpg").read_bytes()
    for path in (drive / "frames").iterdir():
        path.write_bytes(one)
    with pytest.raises(DataError, match="moves at 8 m/s while pictures stay the same"):
        READ(drive, "drive")


def test_a_car_that_stands_before_an_unchanged_street_is_read(tmp_path: Path):
    drive = write_drive(tmp_path / "drive", still(arc(8.0)))
    for path in (drive / "frames").iterdir():
        path.write_bytes((drive / "frames" / "000000.jpg").read_bytes())
    assert len(READ(drive, "drive")[0]) == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("focal_px: [700, 700]\ncenter_px: [960, 540]", "center_px"),
        ("focal_px: [20, 20]\ncenter_px: [10, 6]", "center_px"),
        ("focal_px: [700, 700]\ncenter_px: [32, 18]", "focal_px"),
        ("focal_px: [2, 2]\ncenter_px: [32, 18]", "focal_px"),
    ],
)
def test_calibration_of_another_size_is_refused_with_the_pictures_size(
    tmp_path: Path, text: str, told: str
):
    drive = write_drive(tmp_path / "drive", arc(8.0))
    (drive / "sequence.yaml").write_text(text)
    with pytest.raises(DataError, match=rf"sequence\.yaml, field {told}: .* 64 x 36 pixels"):
        READ(drive, "drive")
    (drive / "sequence.yaml").write_text("focal_px: [50, 50]\ncenter_px: [32, 18]")
    assert READ(drive, "drive")[1] == []


def test_the_doctor_counts_what_drives_give_and_names_each_fault(tmp_path: Path):
    write_drive(tmp_path / "good", arc(12.0))
    write_drive(tmp_path / "short", arc(3.0))
    write_drive(tmp_path / "unmatched", arc(12.0), names="{:d}".format)
    write_drive(tmp_path / "other", arc(12.0))
    (tmp_path / "other" / "frames").rename(tmp_path / "other" / "image_2")
    holes = write_drive(tmp_path / "holes", arc(12.0))
    for i in range(40, 80):
        (holes / "frames" / f"{i:06d}.jpg").unlink()
    report = check_drives(tmp_path)
    told = {(f.check, f.message): f for f in report.findings}
    assert report.exit_code == 1
    assert report.counts["drives"] == 5
    assert 0 < report.counts[SENTENCES] < report.counts[SCENES]
    refused = " ".join(told["drives", "drives are refused, or give no labels"].places)
    assert "none of the 121 poses has a picture" in refused and "image_2/ is there" in refused
    assert "short" in told["scenes", "logs give no scene"].places[0]
    assert "holes" in told["pictures", "frames have no picture near enough in time"].places[0]
    assert {f.level for f in report.findings if f.check == "calibration"} == {Level.WARN}


def test_the_doctor_sees_names_given_twice_and_a_folder_without_drives(tmp_path: Path):
    for name in ("a", "b"):
        drive = write_drive(tmp_path / "twice" / name, arc(8.0))
        (drive / "sequence.yaml").write_text("name: mycar\n")
    (finding,) = [
        f for f in check_drives(tmp_path / "twice").findings if "share a name" in f.message
    ]
    assert "mycar" in finding.places[0]
    (tmp_path / "empty").mkdir()
    assert "holds no sequence" in check_drives(tmp_path / "empty").findings[0].message


def test_data_check_looks_at_own_drives_when_no_split_is_named(tmp_path: Path):
    write_drive(tmp_path / "drives" / "good", arc(12.0))
    done = CliRunner().invoke(app, ["data", "check", "--root", str(tmp_path / "drives")])
    assert done.exit_code == 0, done.output
    assert "frames and poses" in done.output and "result: WARN" in done.output
    (tmp_path / "tree" / "navsim_logs").mkdir(parents=True)
    done = CliRunner().invoke(app, ["data", "check", "--root", str(tmp_path / "tree")])
    assert "name the split with --split" in str(done.exception)


def test_what_files_say_steers_no_terminal_in_the_doctors_report():
    findings = Findings()
    evil = "\x1b[2Jgone\x07 [red]x[/red]"
    findings.add(Level.FAIL, "logs", f"m {evil}", remedy=f"r {evil}", place=f"p {evil}")
    out = io.StringIO()
    report = Report(root=f"/d{evil}", split=evil, counts={}, findings=findings.all())
    report.print(Console(file=out, width=200, force_terminal=False))
    assert "\x1b" not in out.getvalue() and "\x07" not in out.getvalue()
    assert out.getvalue().count("\\x1b[2Jgone\\x07 [red]x[/red]") == 5
