"""Other simulators meet a planner: what they send is understood or refused with its reason, and the
plan is the one that the planner makes at home.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from planner_factory import make_records
from typer.testing import CliRunner

from latentvla_core.cli import app
from latentvla_core.closed_loop.drivers.baselines import floor
from latentvla_core.closed_loop.drivers.planners import load_folder
from latentvla_core.data.cameras import decode_image
from latentvla_core.doors.http_driver import DriverServer
from latentvla_core.doors.moments import decoded, moment_of
from latentvla_core.doors.seat import Seat, _jpeg, photographed
from latentvla_core.errors import DataError, SetupError
from latentvla_core.planner.hosts.ipad import IpadConfig
from latentvla_core.planner.model import build_planner, save
from latentvla_core.planner.plan import plan
from latentvla_core.types import Command, SceneRecord

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[SceneRecord]:
    return make_records(tmp_path_factory.mktemp("scenes"), 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("planner") / "ipad"
    save(build_planner("ipad", IpadConfig.debug(), seed=3), place)
    return place


def message_of(record: SceneRecord) -> dict:
    """A scene's record as a simulator would tell it, with the very bytes of its pictures."""
    root = Path(record.sensor_root)
    rig = zip(
        record.camera_names,
        record.camera_intrinsics_px,
        record.camera_rotations,
        record.camera_translations_m,
        strict=True,
    )
    return {
        "pictures": {
            name: base64.b64encode((root / path).read_bytes()).decode()
            for name, path in zip(record.camera_names, record.camera_paths, strict=True)
        },
        "cameras": {
            name: {"intrinsics_px": k.tolist(), "rotation": r.tolist(), "translation_m": t.tolist()}
            for name, k, r, t in rig
        },
        "velocity_mps": record.ego_velocity_mps.tolist(),
        "acceleration_mps2": record.ego_acceleration_mps2.tolist(),
        "history_poses": record.history_poses.tolist(),
        "command": int(record.command),
    }


# ------------------------------------------------------------------ moments and the seat


def test_a_planner_plans_from_a_message_what_it_plans_at_home(records, folder):
    driver = load_folder(folder)
    home = plan(driver.planner, records)
    seat = Seat(driver)
    away = np.stack([seat.drive(json.loads(json.dumps(message_of(r)))) for r in records])
    assert np.allclose(home, away, atol=1e-6)
    assert np.ptp(home, axis=0).max() > 1e-3  # the scenes are told apart


def test_pictures_may_be_png_or_arrays_and_are_read_as_they_are():
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    array = io.BytesIO()
    np.save(array, picture)
    assert np.array_equal(decoded(array.getvalue(), "CAM_F0"), picture)

    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    assert np.array_equal(decoded(png.getvalue(), "CAM_F0"), picture)


def stripes() -> np.ndarray:
    """(252, 448, 3) with edges of all kinds."""
    y, x = np.mgrid[:252, :448]
    waves = np.sin(x / 5.0) * np.cos(y / 3.0) + ((x // 17 + y // 13) % 2)
    return (waves[..., None] * [50, 25, 16] + 90).astype(np.uint8)


def test_a_picture_that_was_decoded_becomes_the_jpeg_it_was():
    """Scaling while decoding and scaling afterwards differ; a planner was trained on the former."""
    size, data = (96, 48), _jpeg(stripes(), 88)
    whole, home = decode_image(data), decode_image(data, size).astype(float)
    lossless = io.BytesIO()
    Image.fromarray(whole).save(lossless, "PNG")
    gaps = [
        np.abs(decode_image(found, size) - home).mean()
        for found in (photographed(whole), lossless.getvalue())
    ]
    assert gaps[0] < 0.1 < gaps[1]


def test_other_tables_than_ours_are_not_forced_on_a_picture():
    drawn = stripes()  # never was a JPEG
    gaps = [
        np.abs(decode_image(found).astype(float) - drawn).mean()
        for found in (photographed(drawn), _jpeg(drawn, 88))
    ]
    assert gaps[0] < gaps[1] / 2


def test_an_agent_that_hands_over_arrays_gets_the_plan_of_the_files(folder, tmp_path):
    driver, records = load_folder(folder), make_records(tmp_path, 2)
    for record in records:
        for path in record.camera_paths:
            Path(record.sensor_root, path).write_bytes(_jpeg(stripes(), 88))
    messages = [message_of(record) for record in records]
    for record, message in zip(records, messages, strict=True):
        for name, path in zip(record.camera_names, record.camera_paths, strict=True):
            array = np.array(Image.open(Path(record.sensor_root, path)))
            message["pictures"][name] = base64.b64encode(npy_of(array)).decode()
    away = np.stack([Seat(driver).drive(message) for message in messages])
    assert np.allclose(plan(driver.planner, records), away, atol=0.02)


def npy_of(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"no picture", b"\xff\xd8\xff\xe0 cut off", npy_of(np.zeros((4, 4), np.uint8)),
     npy_of(np.zeros((4, 4, 3))), npy_of(np.array([{"x": 1}])), npy_of(np.zeros(9))[:60]],
)  # fmt: skip
def test_a_broken_picture_is_refused_with_its_camera(data, records, folder):
    message = message_of(records[0])
    message["pictures"]["CAM_L0"] = base64.b64encode(data).decode()
    with pytest.raises(DataError, match="CAM_L0"):
        Seat(load_folder(folder)).drive(message)


def test_every_fault_of_a_message_is_named_at_once():
    message = {
        "speed": 3, "command": "straight", "pictures": {"CAM_F0": "%", "front": "", "CAM_L0": ""},
        "cameras": {"CAM_F0": {"intrinsics_px": [1, 2]}}, "history_poses": [[0, 0]],
        "acceleration_mps2": [float("nan"), 0], "timestamp_us": 1.5,
    }  # fmt: skip
    with pytest.raises(DataError) as caught:
        moment_of(message)
    for said in (
        "'speed' is unknown", "velocity_mps is missing", "'straight'", "pictures.CAM_F0 is not",
        "camera 'front'", "cameras.CAM_F0.intrinsics_px", "cameras.CAM_F0.rotation",
        "history_poses", "acceleration_mps2", "timestamp_us", "says nothing of CAM_L0",
    ):  # fmt: skip
        assert said in str(caught.value), said


@pytest.mark.parametrize("message", [None, [], "drive", 3])
def test_what_is_no_message_is_said_so(message):
    with pytest.raises(DataError, match="has to be an object"):
        moment_of(message)


@pytest.mark.parametrize(
    ("given", "command"),
    [("left", 0), ("FORWARD", 1), (2, 2), ([0, 0, 0, 1], 3), (None, 3), ([0, 1, 0, 0], 1)],
)
def test_commands_come_by_name_number_or_one_hot(given, command):
    assert moment_of({"velocity_mps": [1, 0], "command": given}).seen.command == Command(command)


@pytest.mark.parametrize("given", [7, -1, True, [1, 1, 0, 0], [1, 0], "back"])
def test_commands_that_mean_nothing_are_refused(given):
    with pytest.raises(DataError, match="command is"):
        moment_of({"velocity_mps": [1, 0], "command": given})


def test_a_car_without_history_kept_its_speed_and_a_long_history_ends_now():
    seen = moment_of({"velocity_mps": [4.0, 0.0]}).seen
    assert np.allclose(seen.history_poses[:, 0], [-6, -4, -2, 0])
    assert np.allclose(seen.history_velocities_mps, [4, 0])
    poses = [[-float(9 - k), 0, 0] for k in range(10)]
    late = moment_of({"velocity_mps": [4.0, 0.0], "history_poses": poses}).seen
    assert np.allclose(late.history_poses[:, 0], [-3, -2, -1, 0])
    short = moment_of({"velocity_mps": [4.0, 0.0], "history_poses": poses[-2:]}).seen
    assert np.allclose(short.history_poses[:, 0], [-1, -1, -1, 0])


@dataclass
class Told:
    """Remembers what it saw and answers what it was made with."""

    plan: np.ndarray
    cameras: tuple[str, ...] = ()
    name: str = "told"
    is_privileged: bool = False
    seeds: list[int] = field(default_factory=list)
    saw: list = field(default_factory=list)

    def start(self, seed: int) -> None:
        self.seeds.append(seed)

    def drive(self, seen):
        self.saw.append(seen)
        return self.plan


def test_a_plan_of_nan_is_an_error_and_no_answer():
    with pytest.raises(DataError, match="NaN"):
        Seat(Told(np.full((8, 3), np.nan))).drive({"velocity_mps": [1, 0]})


def test_any_driver_that_looks_gets_arrays_and_a_missing_camera_is_named(records):
    driver = Told(np.zeros((8, 3)), cameras=("CAM_F0", "CAM_R0"))
    message = message_of(records[0])
    Seat(driver).drive(message)
    assert driver.saw[0].pictures["CAM_F0"].shape == (108, 192, 3)
    del message["pictures"]["CAM_R0"]
    with pytest.raises(DataError, match="CAM_R0 is missing"):
        Seat(driver).drive(message)


def test_drivers_with_privileged_knowledge_have_no_door():
    with pytest.raises(SetupError, match="pdm_closed needs what no message holds"):
        Seat(floor("pdm_closed"))


# ------------------------------------------------------------------ HTTP


@pytest.fixture
def told():
    driver = Told(np.arange(24, dtype=float).reshape(8, 3))
    server = DriverServer(driver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield driver, server
    server.shutdown()
    server.server_close()
    thread.join()


def asked(server, path, body=None):
    """(code, answer)"""
    request = urllib.request.Request(server.url + path, body)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_simulator_starts_a_drive_and_gets_plans_over_http(told):
    driver, server = told
    assert asked(server, "/health")[1]["planner"] == "told"
    assert asked(server, "/start", b'{"seed": 5}') == (200, {}) and driver.seeds == [5]
    code, answer = asked(server, "/drive", b'{"velocity_mps": [3, 0], "command": "left"}')
    assert code == 200 and answer["poses"] == driver.plan.tolist() and answer["seconds"] >= 0
    assert driver.saw[0].command == Command.LEFT


@pytest.mark.parametrize(
    ("path", "body", "code", "reason"),
    [
        ("/drive", b"{", 400, "no JSON"),
        ("/drive", b"{}", 400, "velocity_mps is missing"),
        ("/start", b'{"seed": "x"}', 400, "whole number"),
        ("/land", b"{}", 400, "/land is unknown"),
        ("/land", None, 404, "GET /health"),
    ],
)
def test_every_mistake_gets_an_answer_with_its_reason(told, path, body, code, reason):
    found, answer = asked(told[1], path, body)
    assert found == code and reason in answer["error"]


def test_a_planner_that_breaks_answers_too_and_the_server_lives_on(told):
    driver, server = told
    good, driver.plan = driver.plan, np.full((8, 3), np.inf)
    assert asked(server, "/drive", b'{"velocity_mps": [3, 0]}')[0] == 400
    driver.drive = None  # type: ignore[method-assign, assignment]
    code, answer = asked(server, "/drive", b'{"velocity_mps": [3, 0]}')
    assert code == 500 and "TypeError" in answer["error"]
    del driver.drive
    driver.plan = good
    assert asked(server, "/drive", b'{"velocity_mps": [3, 0]}')[0] == 200


# ------------------------------------------------------------------ the NAVSIM folder


def test_the_agents_folder_starts_this_python_and_overwrites_nothing(folder, tmp_path):
    out, blobs = tmp_path / "agent", tmp_path / "blobs"
    line = ["serve", "navsim", "--planner", str(folder), "--out", str(out)]
    done = CliRunner().invoke(app, [*line, "--sensor-blobs", str(blobs)])
    assert done.exit_code == 0 and f"PYTHONPATH={out}" in done.output
    settings = yaml.safe_load((out / "agent" / "latentvla_agent.yaml").read_text())
    assert settings["_target_"] == "latentvla_agent.LatentVLAAgent"
    assert settings["cameras"] == ["CAM_F0", "CAM_L0", "CAM_R0"]
    assert settings["sensor_blobs"] == [str(blobs)]
    assert (Path(settings["server_path"]) / "latentvla_core" / "doors").is_dir()
    assert str(folder.resolve()) in settings["command"] and "http" in settings["command"]
    again = CliRunner().invoke(app, line)
    assert isinstance(again.exception, SetupError) and "not empty" in str(again.exception)


def test_a_port_that_is_taken_is_said_so(told, folder):
    port = told[1].server_address[1]
    done = CliRunner().invoke(app, ["serve", "http", "--planner", "blind", "--port", str(port)])
    assert isinstance(done.exception, SetupError) and "give another --port" in str(done.exception)


def test_a_camera_that_the_planner_does_not_ask_for_changes_nothing(records, folder):
    seat, message = Seat(load_folder(folder)), message_of(records[0])
    extra = json.loads(json.dumps(message))
    extra["cameras"]["CAM_B0"] = extra["cameras"]["CAM_F0"]
    assert np.allclose(seat.drive(message), seat.drive(extra))


def test_the_planners_that_the_benchmark_calls_can_be_built():
    """It named modules that had moved, and nobody had run it since."""
    from benchmarks.doors import planners

    made = planners("debug")
    assert set(made) == {"transfuser", "ipad", "ipad_student"}
    assert made["ipad_student"].features is not None
