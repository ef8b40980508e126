"""What `mlflow models serve` answers: plans for pictures that come with the question, and a reason
where there is none.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException

from latentvla_core.data.records import row_from_record
from latentvla_core.doors.scenes import UNKNOWN_NOW
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import build_planner, save
from latentvla_core.planner.plan import plan
from pipelines.registry.register import CODE, PLANS, scene_json, signature

sys.path.append(str(Path(__file__).parents[1] / "core"))
from planner_factory import make_records

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 3)


@pytest.fixture(scope="module")
def planner():
    return build_planner("transfuser", TransfuserConfig.debug(), seed=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory, planner):
    """The planner as MLflow packs and loads it."""
    import mlflow

    root = tmp_path_factory.mktemp("served")
    save(planner, root / "weights")
    (root / "weights" / "summary.json").write_text(json.dumps({"family": "planner"}))
    mlflow.pyfunc.save_model(
        root / "model",
        python_model=str(CODE),
        artifacts={"model": str(root / "weights")},
        signature=signature(PLANS),
        pip_requirements=[],
    )
    return mlflow.pyfunc.load_model(str(root / "model"))


def moment_of(record) -> dict:
    """The scene with its pictures in the message."""
    root = Path(record.sensor_root)
    pictures, cameras = {}, {}
    for k, name in enumerate(record.camera_names):
        data = (root / record.camera_paths[k]).read_bytes()
        pictures[name] = base64.b64encode(data).decode()
        cameras[name] = {
            "intrinsics_px": record.camera_intrinsics_px[k].tolist(),
            "rotation": record.camera_rotations[k].tolist(),
            "translation_m": record.camera_translations_m[k].tolist(),
        }
    return {
        "pictures": pictures,
        "cameras": cameras,
        "velocity_mps": record.ego_velocity_mps.tolist(),
        "command": int(record.command),
    }


def asked(model, *texts: str):
    return model.predict(pd.DataFrame({"scene": list(texts)}))


def test_pictures_in_the_question_give_the_plan_that_files_give(model, planner, records):
    home = plan(planner, records)
    moments = asked(model, *(json.dumps(moment_of(r)) for r in records))
    rows = asked(model, *(scene_json(r) for r in records))
    mixed = asked(model, scene_json(records[0]), json.dumps(moment_of(records[1])))
    assert moments.shape == (3, 8, 3) and moments.dtype == np.float32
    assert np.allclose(moments, home, atol=1e-5) and np.allclose(rows, home, atol=1e-5)
    assert np.allclose(mixed, home[:2], atol=1e-5)


def test_a_row_needs_nothing_of_the_future_and_nothing_of_the_map(model, planner, records):
    row = json.loads(scene_json(records[0]))
    for name in (*UNKNOWN_NOW, "front_paths"):
        del row[name]
    assert set(UNKNOWN_NOW) <= set(row_from_record(records[0]))
    assert np.allclose(asked(model, json.dumps(row))[0], plan(planner, records[:1])[0], atol=1e-5)


def test_every_scene_that_cannot_be_used_is_named_with_its_reason(model, records):
    good, blind, lost = (
        json.dumps(moment_of(records[0])),
        moment_of(records[1]),
        moment_of(records[2]),
    )
    blind["pictures"] = blind["cameras"] = {}
    lost["pictures"]["CAM_L0"] = base64.b64encode(b"no picture").decode()
    with pytest.raises(MlflowException) as caught:
        asked(model, good, "{", json.dumps({"command": "left"}), json.dumps({"scene_token": "x"}))
    said = str(caught.value)
    assert "scene 0" not in said and "scene 1: it is no JSON" in said
    assert "scene 2: velocity_mps is missing" in said and "scene 3: the row lacks" in said
    assert caught.value.get_http_status_code() == 400
    with pytest.raises(MlflowException) as caught:
        asked(model, good, json.dumps(blind), json.dumps(lost))
    said = str(caught.value)
    assert "scene 0" not in said and "scene 1: " in said and "no picture" in said
    assert "scene 2: " in said and "CAM_L0" in said and "/tmp" not in said


def test_a_planner_that_says_nan_is_refused(model, records, monkeypatch):
    inner = model.unwrap_python_model()
    monkeypatch.setattr(
        inner.model, "forward", lambda batch: {"poses": torch.full((1, 8, 3), torch.nan)}
    )
    with pytest.raises(MlflowException, match="not finite"):
        asked(model, json.dumps(moment_of(records[0])))


def test_the_server_of_mlflow_answers_plans_and_reasons(model, planner, records):
    testing = pytest.importorskip("fastapi.testclient", reason="needs httpx for a client")
    from mlflow.pyfunc import scoring_server

    with testing.TestClient(scoring_server.init(model), raise_server_exceptions=False) as client:
        body = {"dataframe_records": [{"scene": json.dumps(moment_of(records[0]))}]}
        answer = client.post("/invocations", json=body)
        assert answer.status_code == 200, answer.text
        poses = np.array(answer.json()["predictions"][0], np.float32)
        assert np.allclose(poses, plan(planner, records[:1])[0], atol=1e-5)
        bad = client.post("/invocations", json={"dataframe_records": [{"scene": "{"}]})
        assert bad.status_code == 400 and "no JSON" in bad.text
