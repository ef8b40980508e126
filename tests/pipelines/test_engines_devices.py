"""An asset's training on two processes is that of one; what a process raises, the asset raises."""

from __future__ import annotations

import os
from pathlib import Path

import blind_stages
import numpy as np
import pytest
from safetensors.numpy import load_file
from scene_rows import scene_row

from latentvla_core.errors import DataError, LatentVLAError, SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.training.sinks import read_curves
from pipelines.engines import devices
from pipelines.engines.devices import Lines, Order, on_devices, plain, trainer_of
from pipelines.settings import Settings
from pipelines.steps.engine import Engine

HERE = Path(__file__).resolve().parent


@pytest.fixture
def paths(monkeypatch):
    """Processes of torchrun find what this one finds."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parents[1]), str(HERE)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def engine_of(home: Path, said: list[str], **extra: str) -> Engine:
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "a.pkl").write_bytes(b".")  # its scenes are in the lake already
    sources = home / "sources.yaml"
    sources.write_text(f"splits: {{train: {{logs: {home / 'logs'}}}}}")
    env = {"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug", "LATENTVLA_DEVICE": "cpu"}
    env |= {"LATENTVLA_SOURCES": str(sources), "LATENTVLA_SHARDS": "1"}
    engine = Engine(Settings.from_env(env | extra), blind_stages.STAGES, said.append)
    place = {"split": "train", "shard": 0}
    rows = [{**scene_row(f"{k:02d}", k + 1.0), **place, "made_by": "m"} for k in range(8)]
    Lake(engine.settings.lake).replace("scenes", rows, place)
    return engine


def trained(engine: Engine, folder: Path):
    """Weights and curve of the blind planner, trained by what the engine's settings say."""
    folder.mkdir(parents=True)
    stage, inputs = blind_stages.STAGES["ego_status_mlp"], {"scenes": engine.lake.version("scenes")}
    train = trainer_of(engine, plain, blind_stages.AT)
    if train is None:
        model = stage.run(engine.as_of(stage, inputs), folder)
    else:
        model = train(stage, inputs, folder)
    curve = [loss for _, loss in read_curves(folder / "curves.jsonl")["loss"]]
    return model, load_file(next(folder.glob("*.safetensors"))), curve


@pytest.mark.slow
def test_two_processes_leave_the_model_of_one(tmp_path, paths):
    said: list[str] = []
    one, weights, curve = trained(engine_of(tmp_path / "one", said), tmp_path / "a")
    two, others, other_curve = trained(
        engine_of(tmp_path / "two", said, LATENTVLA_DEVICES="2"), tmp_path / "b"
    )
    assert set(weights) == set(others)
    for name, values in weights.items():
        assert np.allclose(values, others[name], atol=1e-6), name
    assert two.parameters == one.parameters
    assert two.metrics == pytest.approx(one.metrics, abs=1e-5)
    assert curve == pytest.approx(other_curve, abs=1e-6)
    assert "ego_status_mlp: 2 processes, ddp" in said
    assert any(line.startswith("ego_status_mlp step") for line in said), "no live progress"
    left = {path.name for path in (tmp_path / "b").iterdir()}
    assert not left & {devices.ORDER, devices.MODEL, devices.FAULT}


@pytest.mark.skipif(not os.environ.get("LATENTVLA_SOAK"), reason="dear: make soak")
def test_an_asset_starts_them_through_dagster_pipes_and_shows_their_lines(
    tmp_path, paths, monkeypatch
):
    import dagster as dg

    from pipelines.definitions import build
    from pipelines.stages import STAGES

    engine = engine_of(tmp_path, [], LATENTVLA_DEVICES="2")
    given = {"HOME": tmp_path, "RECIPE": "debug", "DEVICES": "2", "DEVICE": "cpu"}
    given |= {"SOURCES": tmp_path / "sources.yaml", "SHARDS": "1"}
    for name, value in given.items():
        monkeypatch.setenv(f"LATENTVLA_{name}", str(value))
    job = build(engine.settings, pooled=False).resolve_job_def("whole_line")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("ego_status_mlp")]
        )
        said = [entry.message for entry in instance.all_logs(result.run_id)]
    assert result.success
    assert any("step" in text and "ego_status_mlp" in text and "loss" in text for text in said)
    assert {"ego_status_mlp"} <= {name for name, _ in Engine(engine.settings, STAGES).ledger.latest}


@pytest.mark.slow
def test_what_a_process_raises_is_raised_as_it_was(tmp_path, paths):
    engine = engine_of(tmp_path / "home", [], LATENTVLA_DEVICES="2")
    train = trainer_of(engine, plain, blind_stages.AT)
    (tmp_path / "f").mkdir()
    assert train is not None
    with pytest.raises(DataError, match="the answer is no") as found:
        train(blind_stages.STAGES["refused"], {}, tmp_path / "f")
    assert (found.value.file, found.value.frame) == ("a.pkl", "7")


def test_processes_that_die_without_a_word_are_told(tmp_path):
    engine = engine_of(tmp_path / "home", [], LATENTVLA_DEVICES="2")
    order = Order(settings=engine.settings, stage="vlm", inputs={}, folder=str(tmp_path))
    (tmp_path / devices.MODEL).write_bytes(b"of an earlier try")
    with pytest.raises(LatentVLAError, match="vlm: its 2 processes ended without a word"):
        on_devices(order, lambda command, say: None, print)


def test_one_device_needs_no_processes_and_nonsense_is_refused(tmp_path):
    assert trainer_of(engine_of(tmp_path, [])) is None
    for name, value in (("DEVICES", "two"), ("DEVICES", "0"), ("SPREAD", "pipeline")):
        with pytest.raises(SetupError, match=f"LATENTVLA_{name} is '{value}'"):
            Settings.from_env({f"LATENTVLA_{name}": value})


def test_progress_is_a_line_now_and_then(monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr(devices.time, "monotonic", lambda: now[0])
    lines = Lines(said.append, "vlm")
    for step in range(4):
        lines.log(step, {"loss": 0.5, "rate": 1e-3})
        now[0] += 6.0
    assert said == ["vlm step 0  loss 0.5  rate 0.001", "vlm step 2  loss 0.5  rate 0.001"]
