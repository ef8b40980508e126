"""Bringing work up to date, with toy stages: what is skipped, what is done again, what a kill
leaves behind.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from label_rows import label
from PIL import Image

import pipelines.steps.context as context_module
import pipelines.steps.engine as engine_module
from latentvla_core.errors import DataError, SetupError
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.context import Output
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage, shard_of


class Line:
    """One stage that writes `latent_actions`, one without partitions that only refuses, and what
    they were asked to do.
    """

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.rows = {"train-00": [label("a"), label("b")], "train-01": [label("c")]}
        self.faults: list[dict[str, str]] = []
        self.steps, self.shards = 10, 2
        self.version = "m"
        self.home = tmp_path
        monkeypatch.setattr(
            context_module,
            "recipe_named",
            lambda name, weights: SimpleNamespace(name=name, latent=self.steps),
        )

    def engine(self) -> Engine:
        stage = Stage(
            name="toy",
            run=self.run,
            kind="shards",
            table="latent_actions",
            deps=(),
            group="g",
            doc="",
            recipe=("latent",),
        )
        env = {
            "LATENTVLA_HOME": str(self.home),
            "LATENTVLA_RECIPE": "toy",
            "LATENTVLA_SHARDS": str(self.shards),
        }
        settings = Settings.from_env(env)
        whole = Stage(
            name="whole",
            run=self.refuse,
            kind="table",
            table="pdm_summary",
            deps=(),
            group="g",
            doc="",
        )
        return Engine(settings, {"toy": stage, "whole": whole})

    def run(self, engine: Engine, partition: str) -> Output:
        self.calls.append(partition)
        return Output(self.rows[partition], self.faults, groups=(self.version,))

    def refuse(self, engine: Engine) -> Output:
        return Output([], self.faults)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(tmp_path, monkeypatch)


def test_finished_work_is_not_done_again(line: Line):
    assert not line.engine().execute("toy", "train-00").skipped
    assert line.engine().execute("toy", "train-00").skipped
    assert line.calls == ["train-00"]


def test_force_does_it_again_and_leaves_one_copy(line: Line):
    line.engine().execute("toy", "train-00")
    line.engine().execute("toy", "train-00", force=True)
    assert line.calls == ["train-00"] * 2
    assert line.engine().lake.read("latent_actions").num_rows == 2


def test_a_changed_recipe_does_it_again(line: Line):
    first = line.engine().execute("toy", "train-00")
    line.steps = 11
    second = line.engine().execute("toy", "train-00")
    assert not second.skipped
    assert first.made_by != second.made_by
    assert {row["made_by"] for row in line.engine().lake.rows("latent_actions")} == {second.made_by}


def test_killed_between_rows_and_ledger_gives_the_same_table(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.steps.lineage.Ledger.record", killed)
        with pytest.raises(KeyboardInterrupt):
            line.engine().execute("toy", "train-00")
    assert not line.engine().execute("toy", "train-00").skipped
    assert line.engine().lake.read("latent_actions")["scene_token"].to_pylist() == ["a", "b"]


def test_rows_say_what_made_them_and_the_ledger_says_the_rest(line: Line):
    outcome = line.engine().execute("toy", "train-01", run_id="run-7")
    (entry,) = line.engine().lake.rows("materialisations")
    assert entry["made_by"] == outcome.made_by
    assert entry["run_id"] == "run-7"
    assert entry["rows"] == 1
    found = line.engine().lake.sql(
        "select l.scene_token, m.asset from latent_actions l join materialisations m on l.made_by = m.made_by"
    )
    assert found.to_pylist() == [{"scene_token": "c", "asset": "toy"}]


def test_what_was_refused_is_in_quarantine_until_it_is_mended(line: Line):
    line.faults = [{"file": "a.pkl", "frame": "f", "field": "anns", "reason": "missing"}]
    assert line.engine().execute("toy", "train-00").quarantined == 1
    assert line.engine().lake.rows("quarantine")[0]["reason"] == "missing"
    line.faults = []
    line.engine().execute("toy", "train-00", force=True)
    assert line.engine().lake.rows("quarantine") == []


def test_what_a_stage_without_partitions_refused_is_gone_once_it_is_mended(line: Line):
    line.faults = [{"file": "a.pkl", "frame": "", "field": "", "reason": "missing"}]
    assert line.engine().execute("whole").quarantined == 1
    assert [(row["split"], row["file"]) for row in line.engine().lake.rows("quarantine")] == [
        ("", "a.pkl")
    ]
    line.faults = []
    line.engine().execute("whole", force=True)
    assert line.engine().lake.rows("quarantine") == []


def test_where_nothing_was_refused_and_nothing_is_nothing_is_written(line: Line):
    line.faults = [{"file": "a.pkl", "frame": "", "field": "", "reason": "missing"}]
    line.engine().execute("toy", "train-00")
    line.faults = []
    version = line.engine().lake.version("quarantine")
    line.engine().execute("whole")
    assert line.engine().lake.version("quarantine") == version


def test_bad_rows_are_refused_and_the_old_ones_stay(line: Line):
    line.engine().execute("toy", "train-00")
    line.rows["train-00"] = [label("z"), label("z")]
    with pytest.raises(DataError, match="not unique"):
        line.engine().execute("toy", "train-00", force=True)
    assert line.engine().lake.read("latent_actions")["scene_token"].to_pylist() == ["a", "b"]


# ---- another number of shards ------------------------------------------------------------------


def test_a_lake_with_more_shards_is_refused_before_anything_is_done(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    line.shards, line.rows["train-03"] = 4, [label("d", shard=3)]
    line.engine().execute("toy", "train-03")
    written = line.engine().lake.version("materialisations")
    line.shards = 2
    told = r"lake .*/lake was written with 4 shards a split, now there are 2 \(LATENTVLA_SHARDS\).*set LATENTVLA_SHARDS to 4 or more"
    for name, partition in (("toy", "train-01"), ("whole", "")):
        with pytest.raises(SetupError, match=told):
            line.engine().execute(name, partition, force=True)
    monkeypatch.setattr(
        engine_module.sources, "prepare", lambda *_: pytest.fail("a world would be written")
    )
    with pytest.raises(SetupError, match=told):
        real_line({"LATENTVLA_HOME": str(line.home), "LATENTVLA_SHARDS": "2"}).execute("logs")
    assert line.calls == ["train-03"]
    line.shards = 4
    assert line.engine().lake.version("materialisations") == written
    assert line.engine().execute("toy", "train-03").skipped


def test_shards_of_a_split_that_is_no_longer_asked_for_do_not_matter(line: Line):
    line.shards, line.rows["test-03"] = 4, [label("d", split="test", shard=3)]
    line.engine().execute("toy", "test-03")
    line.shards = 2
    engine = line.engine()
    engine.settings = replace(engine.settings, sources=engine.settings.sources[:2])
    assert engine.settings.splits == ("train", "val")
    assert not engine.execute("toy", "train-00").skipped


def test_a_clock_that_was_set_back_is_told_and_the_latest_work_stays_the_latest(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    line.engine().execute("toy", "train-00")
    monkeypatch.setattr(engine_module.time, "time_ns", lambda: 1_000_000_000)
    line.steps = 11
    engine, said = line.engine(), []
    engine.say = said.append
    made_by = engine.execute("toy", "train-00").made_by
    assert any("was set back" in text for text in said)
    assert line.engine().ledger.made_by("toy", "train-00") == made_by
    assert line.engine().execute("toy", "train-00").skipped
    assert len(line.calls) == 2


def last_commit(engine: Engine, table: str) -> Path:
    return max(Path(engine.lake.uri(table), "_delta_log").glob("*.json"))


def test_a_last_commit_that_vanished_is_told_and_just_its_work_is_done_again(line: Line):
    for partition in ("train-00", "train-01"):
        line.engine().execute("toy", partition)
    last_commit(line.engine(), "latent_actions").unlink()
    engine, said = line.engine(), []
    engine.say = said.append
    assert engine.execute("toy", "train-00").skipped
    assert not engine.execute("toy", "train-01").skipped
    assert "a commit vanished" in said[0]
    assert line.calls == ["train-00", "train-01", "train-01"]
    assert sorted(r["scene_token"] for r in engine.lake.rows("latent_actions")) == ["a", "b", "c"]


def test_a_last_commit_that_emptied_a_shard_is_missed_too(line: Line):
    line.engine().execute("toy", "train-00")
    line.rows["train-00"], line.steps = [], 11
    line.engine().execute("toy", "train-00")
    assert line.engine().lake.read("latent_actions").num_rows == 0
    last_commit(line.engine(), "latent_actions").unlink()
    assert line.engine().lake.read("latent_actions").num_rows == 2
    assert not line.engine().execute("toy", "train-00").skipped
    assert line.engine().lake.read("latent_actions").num_rows == 0


def test_a_registry_that_was_lost_has_its_models_registered_again_and_none_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = replace(STAGES["ego_status_mlp"], deps=(), files=(), gates=())
    settings = Settings.from_env({"LATENTVLA_HOME": str(tmp_path), "LATENTVLA_RECIPE": "debug"})
    engine = Engine(settings, {model.name: model}, lambda text: None)
    made_by = engine.fingerprint(model, "")
    engine.ledger.latest[model.name, ""] = {"made_by": made_by, "rows": 1, "delta_version": 0}
    assert "does not exist" in engine.why_gone(model, "")
    folder = settings.models / model.name / made_by
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(
        '{"parameters": 1, "metrics": {}, "parts": {}, "metadata": {}, "seconds": 1}'
    )
    assert "does not know it" in engine.why_gone(model, "")
    told = []

    def register(engine: Engine, stage: Stage, folder: Path, *rest: Any) -> str:
        told.append(folder.name)
        return "models:/ego_status_mlp/1"

    monkeypatch.setattr(engine_module, "register_model", register)
    assert not engine.execute(model.name).skipped
    assert told == [made_by]
    for known, gone in (
        ({(model.name, made_by)}, False),
        ({(model.name, "other")}, True),
        (None, False),
    ):
        again = Engine(settings, {model.name: model}, lambda text: None)
        monkeypatch.setattr(engine_module, "registered", lambda settings, known=known: known)
        assert bool(again.why_gone(model, "")) is gone
    engine.lake.replace("models", [], {"name": model.name, "version": made_by})
    again = Engine(settings, {model.name: model}, lambda text: None)
    assert "table models has no row of it" in again.why_gone(model, "")


def real_line(env: dict[str, str]) -> Engine:
    """The stages that list logs and read frames."""
    return Engine(
        Settings.from_env(env),
        {name: STAGES[name] for name in ("logs", "frames")},
        lambda text: None,
    )


def test_with_more_shards_every_log_moves_and_is_found_where_it_is(tmp_path: Path):
    sources = tmp_path / "sources.yaml"
    sources.write_text(f"splits: {{train: {{format: frames_poses, logs: {tmp_path / 'drives'}}}}}")
    env = {
        "LATENTVLA_HOME": str(tmp_path / "home"),
        "LATENTVLA_SOURCES": str(sources),
        "LATENTVLA_RECIPE": "debug",
    }
    names = {name: write_drive(tmp_path / "drives" / name) for name in ("oak", "elm", "ash", "yew")}
    for shards in (1, 4):
        line = real_line({**env, "LATENTVLA_SHARDS": str(shards)})
        assert not line.execute("logs").skipped
        for partition in line.settings.partitions:
            line.execute("frames", partition)
        for name, count in names.items():
            place = line.lake.place_of_log(name)
            assert place["shard"] == [shard_of(name, shards)]
            there, all_over = place | {"log_name": f"{name}@0"}, {"log_name": f"{name}@0"}
            assert [line.lake.read("frames", where).num_rows for where in (there, all_over)] == [
                count,
                count,
            ]
    assert len({shard_of(name, 4) for name in names}) > 1


def write_drive(folder: Path, frames: int = 3) -> int:
    """A sequence of pictures and poses at 2 Hz; returns how many frames it has."""
    (folder / "frames").mkdir(parents=True)
    for i in range(frames):
        Image.new("RGB", (8, 4)).save(folder / "frames" / f"{i:06d}.jpg")
    poses = [f"{i:06d},{i * 0.5},{i * 2.0},0.0,0.0" for i in range(frames)]
    (folder / "poses.csv").write_text("\n".join(["frame,timestamp_s,x,y,heading", *poses]))
    return frames
