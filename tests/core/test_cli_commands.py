"""Commands from the outside: exit codes, what is refused before anything is done, what a bug report
holds.
"""

from __future__ import annotations

import io
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from label_rows import label
from typer.testing import CliRunner

from latentvla_core import cli, info
from latentvla_core.cli import _lazy, app
from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.sizes import parameter_counts

PLACE = {"split": "train", "shard": 0, "model_version": "m"}
ALL = "select scene_token, step from latent_actions order by step"


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Two labels of one scene."""
    monkeypatch.setenv("LATENTVLA_LAKE", str(tmp_path / "lake"))
    lake = Lake(str(tmp_path / "lake"))
    lake.replace("latent_actions", [label("a", step=k) for k in (0, 1)], PLACE)
    return lake


def run(*arguments: str, typed: str = ""):
    return CliRunner().invoke(app, list(arguments), input=typed)


def refused(*arguments: str) -> str:
    """What is said by a command that raises SetupError."""
    done = run(*arguments)
    assert isinstance(done.exception, SetupError), (done.exception, done.output)
    return str(done.exception)


# ---- asking the lake


def test_rows_are_printed_as_a_table_or_as_csv_and_written_as_parquet(lake: Lake, tmp_path: Path):
    assert "2 rows" in run("sql", ALL).stdout
    assert run("sql", ALL, "--format", "csv").stdout.split() == ["scene_token,step", "a,0", "a,1"]
    out = tmp_path / "new" / "rows.parquet"
    assert run("sql", ALL, "--format", "parquet", "--out", str(out)).exit_code == 0
    assert pq.read_table(out)["step"].to_pylist() == [0, 1]
    run("sql", ALL, "--format", "csv", "--out", str(tmp_path / "rows.csv"))
    assert (tmp_path / "rows.csv").read_text().splitlines()[1] == "a,0"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--format", "json"], "--format is 'json'; use table, csv or parquet"),
        (["--format", "parquet"], "writes a file; give it with --out FILE.parquet"),
        (["--out", "x.csv"], "--format table is for the screen; add --format csv or"),
        (["--format", "csv", "--out", "."], "is a folder; give the name of a file"),
    ],
)
def test_an_answer_that_could_not_be_given_is_refused_before_the_question(
    lake: Lake, arguments: list[str], told: str
):
    assert told in refused("sql", "select nonsense from nowhere", *arguments)


def test_without_a_query_statements_come_from_the_input(lake: Lake):
    done = run("sql", typed="select count(*) as n from latent_actions;\nselect x from nowhere;\n")
    assert done.exit_code == 0
    assert " 2 " in done.stdout and "error: nowhere: no such table" in done.stdout
    assert "needs a query; the prompt shows its answers" in refused(
        "sql", "--format", "csv", "--out", str(Path(lake.root).parent / "x.csv")
    )


# ---- keeping the lake


def test_compaction_says_what_it_did_to_each_table_there_is(lake: Lake):
    lake.append("latent_actions", [label("b")])
    done = run("lake", "compact")
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 1
    assert "latent_actions" in done.stdout and "2 →     1 files" in done.stdout
    assert "latent_action: no such table (did you mean latent_actions?)" in refused(
        "lake", "compact", "latent_action"
    )


def test_a_dry_vacuum_counts_and_deletes_nothing(lake: Lake):
    lake.replace("latent_actions", [label("c")], PLACE)
    before = sorted(Path(lake.root).rglob("*.parquet"))
    done = run("lake", "vacuum", "--keep-days", "0", "--dry-run")
    assert done.exit_code == 0 and "1 deleted" in done.stdout
    assert sorted(Path(lake.root).rglob("*.parquet")) == before
    assert run("lake", "vacuum", "--keep-days", "-1").exit_code == 2


# ---- worlds and scores


def test_a_world_is_written_into_a_new_folder_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep me")
    assert "is not empty; give a new folder, nothing is overwritten" in refused(
        "world", "write", "--out", str(tmp_path)
    )
    assert "is a file; give a new folder" in refused(
        "world", "write", "--out", str(tmp_path / "mine.txt")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert run("world", "write", "--out", str(tmp_path / "w"), "--logs", "1").exit_code == 2


@pytest.mark.parametrize("more", [[], ["--metric", "epdms"], ["--filter", "navhard_two_stage"]])
def test_two_stages_need_their_metric_and_their_split(tmp_path: Path, more: list[str]):
    place = ["--root", str(tmp_path), "--split", "test", "--trajectories", "T", "--out", "S"]
    assert "--two-stage needs --metric epdms and --filter SPLIT" in refused(
        "score", *place, "--two-stage", *more
    )


def test_the_doctor_s_exit_code_is_the_command_s(tmp_path: Path):
    (tmp_path / "navsim_logs" / "test").mkdir(parents=True)
    done = run("data", "check", "--root", str(tmp_path), "--split", "test")
    assert done.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "csv"], "--to is 'csv'; use webdataset or lerobot"),
        (["--to", "lerobot", "--out", "{full}"], "is not empty; give a new folder"),
    ],
)
def test_an_export_that_cannot_be_is_refused(lake: Lake, tmp_path: Path, arguments, told: str):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    place = [text.format(full=tmp_path / "full") for text in arguments]
    if "--out" not in place:
        place += ["--out", str(tmp_path / "new")]
    assert told in refused("export", *place)


def test_a_submission_needs_a_file_or_a_split(lake: Lake, tmp_path: Path):
    out = str(tmp_path / "s.pkl")
    assert "no --trajectories FILE given; to take them from the lake, name the split" in refused(
        "submission", "--out", out
    )
    assert "has no plans of 'ipad' for split 'test'" in refused(
        "submission", "--out", out, "--split", "test", "--trajectory-id", "ipad"
    )


# ---- the program itself


@pytest.mark.slow
def test_sizes_are_told_for_every_model_of_a_recipe():
    from latentvla_core.recipes import recipe_named

    counts = parameter_counts(recipe_named("debug"))
    done = run("sizes", "debug")
    assert done.exit_code == 0
    for name, count in counts.items():
        assert count > 0
        assert any(
            line.split() == [name, f"{count / 1e6:,.2f}", "M", "parameters"]
            for line in done.stdout.splitlines()
        ), name
    assert counts["ipad_latent"] > counts["ipad"]
    assert "activations, estimated" in done.stdout


def test_a_bug_report_names_versions_device_and_tables(lake: Lake):
    rows = dict(info.environment())
    assert rows["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert rows["lake"] == lake.root
    assert rows["  latent_actions"] == f"2 rows, version {lake.version('latent_actions')}"
    assert "  scenes" not in rows
    assert {*info.PACKAGES, "device"} <= rows.keys()


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(info, "PACKAGES", ("numpy", "no-such-package"))
    rows = dict(info.environment())
    assert rows["no-such-package"] == "not installed" and rows["numpy"] != "not installed"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert dict(info.environment())["device"] == "cpu (torch is not installed)"


def test_a_lake_that_cannot_be_read_is_a_line_of_the_report(lake: Lake, monkeypatch):
    log = next(Path(lake.uri("latent_actions")).glob("_delta_log/*.json"))
    log.write_text("{half")
    rows = dict(info.environment())
    assert rows["  tables"].startswith(f"error: {lake.uri('latent_actions')}")


class Plugin(SimpleNamespace):
    """An entry point of somebody else's package."""

    def load(self):
        return lambda: [("  mine", "1.0")]


def test_other_packages_add_their_lines(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cli, "entry_points", lambda group: [Plugin(name="x", value="x:y")])
    done = run("info")
    assert done.exit_code == 0
    last = done.stdout.splitlines()[-1].split()
    assert last == ["mine", "1.0"]


def main(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> tuple[int, str]:
    """Exit code and message of the program when a command raises."""

    def fails() -> None:
        raise error

    said = io.StringIO()
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr(sys, "stderr", said)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), said.getvalue()


def test_an_error_of_ours_is_one_message_without_a_traceback(monkeypatch: pytest.MonkeyPatch):
    code, said = main(monkeypatch, SetupError("no lake in \x1b[2Jhere; make one"))
    assert code == 2
    assert "error: no lake in \\x1b[2Jhere; make one" in said and "Traceback" not in said


def test_a_full_disk_names_the_path(monkeypatch: pytest.MonkeyPatch):
    code, said = main(monkeypatch, OSError(28, "No space left on device", "/data/out.parquet"))
    assert code == 2
    assert "/data/out.parquet: No space left on device; check the path, its permissions" in said


def test_an_error_that_is_about_no_path_is_shown_whole(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(OSError, match="lost"):
        main(monkeypatch, OSError("lost"))


def test_a_command_of_another_package_is_loaded_only_when_it_is_asked_for(monkeypatch):
    plugin = Plugin(name="demo", value="pipelines.demo:demo")
    monkeypatch.setattr(sys, "argv", ["latentvla", "info"])
    assert "Embedded world" in str(cli._lazy(plugin).__doc__)
    assert cli._lazy(Plugin(name="own", value="mine:own")).__doc__ == "A command of mine:own."
    monkeypatch.setattr(sys, "argv", ["latentvla", "demo"])
    assert cli._lazy(plugin)() == [("  mine", "1.0")]


def test_every_command_of_the_project_says_what_it_does(monkeypatch):
    """Plug-ins load late, so their sentence stands in the command line."""
    monkeypatch.setattr(sys, "argv", ["latentvla", "--help"])
    told = {p.name: _lazy(p).__doc__ for p in entry_points(group="latentvla.commands")}
    assert {"demo", "rollback", "status"} <= set(told)
    assert not [name for name, text in told.items() if text.startswith("A command of")]
