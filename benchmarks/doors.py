"""What a call through each door costs, and whether the NAVSIM agent plans in the devkit what the
planner plans at home:

    python -m benchmarks.doors [--planner P] [--root TREE --devkit CHECKOUT --devkit-python PYTHON]

Planners are built with random weights at the size of a recipe: what a call costs does not depend on
what was learned. `ipad_student` is iPad fused with the student, which runs in the same call.
Pictures are three JPEGs of 1920 x 1080 a call, as AlpaSim sends them. Times are wall-clock
milliseconds of whole calls on one core, the door's own part included; load of the machine counts.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.devkit import run_probe
from latentvla_core.closed_loop.drivers.baselines import floor
from latentvla_core.closed_loop.drivers.planners import CAMERAS, PlannerDriver, load_folder
from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.layout import DataRoot
from latentvla_core.data.map_files.maps import MapStore
from latentvla_core.data.records import scene_record
from latentvla_core.doors.http_driver import DriverServer
from latentvla_core.doors.navsim_files import write_agent
from latentvla_core.doors.seat import Seat
from latentvla_core.pdms import build, score_trajectories
from latentvla_core.planner.plan import plan

PROBE = Path(__file__).with_name("doors_probe.py")


def moment(side_px: tuple[int, int] = (1920, 1080)) -> dict[str, Any]:
    """A moment with three JPEGs of the shapes that AlpaSim sends."""
    from PIL import Image

    width, height = side_px
    yaws = dict(zip(CAMERAS, np.radians([0.0, 55.0, -55.0]), strict=True))
    pictures, cameras = {}, {}
    for k, (name, yaw) in enumerate(yaws.items()):
        rows = np.random.default_rng(k).integers(0, 255, (27, 48, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(rows).resize(side_px, Image.Resampling.BICUBIC).save(out, "JPEG")
        pictures[name] = base64.b64encode(out.getvalue()).decode()
        ahead = [np.cos(yaw), np.sin(yaw), 0.0]
        right = [np.sin(yaw), -np.cos(yaw), 0.0]
        cameras[name] = {
            "intrinsics_px": [[width * 0.8, 0, width / 2], [0, width * 0.8, height / 2], [0, 0, 1]],
            "rotation": np.stack([right, [0.0, 0.0, -1.0], ahead], axis=1).tolist(),
            "translation_m": [1.6, 0.0, 1.5],
        }
    return {"pictures": pictures, "cameras": cameras, "velocity_mps": [6, 0], "command": "forward"}


def planners(size: str) -> dict[str, PlannerDriver]:
    """The hosts alone, and iPad fused with the student, with random weights."""
    from latentvla_core.distill.model import Student
    from latentvla_core.distill.network import StudentNetwork
    from latentvla_core.planner.model import build_planner
    from latentvla_core.recipes import recipe_named

    recipe = recipe_named(size)
    made = {
        host: PlannerDriver(f"{host}, {size}", build_planner(host, recipe.planner.host(host)))
        for host in ("transfuser", "ipad")
        if not (host == "transfuser" and not recipe.planner.host(host).latent)  # no lidar is sent
    }
    network = StudentNetwork(recipe.student).eval()
    student = Student(recipe.student, network, np.full((12, 16), 1 / 16))
    fused = build_planner(
        "ipad", recipe.planner.host("ipad"), fused=True, feature_dim=recipe.student.feature_width
    )
    name = f"ipad_student, {size} ({student.num_parameters() / 1e6:.1f} M student)"
    return {**made, "ipad_student": PlannerDriver(name, fused, student)}


def http_ms(driver: Any, message: dict[str, Any], calls: int) -> np.ndarray:
    """(calls,) milliseconds over HTTP, on a connection each, as urllib makes them."""
    server = DriverServer(driver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    body, taken = json.dumps(message).encode(), []
    for _ in range(calls + 2):
        began = time.perf_counter()
        with urllib.request.urlopen(urllib.request.Request(server.url + "/drive", body)) as answer:
            json.loads(answer.read())
        taken.append(time.perf_counter() - began)
    server.shutdown()
    server.server_close()
    return 1e3 * np.array(taken[2:])


def grpc_ms(driver: Any, message: dict[str, Any], calls: int) -> np.ndarray:
    """(calls,) milliseconds of the `drive` call of AlpaSim's contract; pictures come before it."""
    from carla_driver_interface.testing import FakeCamera, FakeLoop

    from latentvla_core.doors.alpasim import EgoDriver

    rig = tuple(
        FakeCamera(name, 1920, 1080, 64.0, yaw_left_deg=yaw)
        for name, yaw in zip(CAMERAS, (0.0, 55.0, -55.0), strict=True)
    )
    from carla_driver_interface.server import serving

    with (
        serving(EgoDriver(driver), port=0, host="127.0.0.1", mode="alpasim") as port,
        FakeLoop(f"127.0.0.1:{port}", rig, initial_speed_mps=6.0) as loop,
    ):
        call, taken = loop._stub.drive, []
        # The same pictures as over HTTP, and none drawn anew: drawing is not what is timed.
        sent = [base64.b64decode(message["pictures"][camera.logical_id]) for camera in rig]
        turns = itertools.cycle(sent)
        loop._encode = lambda rgb: next(turns)  # type: ignore[method-assign]

        def timed(*args: Any, **settings: Any) -> Any:
            began = time.perf_counter()
            answer = call(*args, **settings)
            taken.append(time.perf_counter() - began)
            return answer

        loop._stub.drive = timed
        loop.run(calls + 2)
    return 1e3 * np.array(taken[2:])


def cpu_s(driver: Any, message: dict[str, Any], calls: int) -> np.ndarray:
    """(calls,) CPU seconds of the driver itself, without a door: the machine's load does not count."""
    seat, taken = Seat(driver), []
    for _ in range(calls + 1):
        began = time.process_time()
        seat.drive(message)
        taken.append(time.process_time() - began)
    return np.array(taken[1:])


def told(name: str, door: str, ms: np.ndarray) -> str:
    middle, late = np.percentile(ms, [50, 99])
    held = "held" if late <= 100 else "not held"
    return f"{name:<44} {door:<5} median {middle:7.1f} ms  p99 {late:7.1f} ms  ≤ 100 ms {held}"


def agent_check(
    planner: Path, features: Path | None, root: Path, split: str, devkit: Path, python: str, n: int
) -> dict[str, Any]:
    """Largest differences between the agent in the devkit and the planner at home."""
    place = DataRoot.find(root)
    maps, scenes = MapStore(place.maps_root()), []
    logs = Path(place.logs_folder, split)
    for path in sorted(logs.glob("*.pkl")):
        found = list(iter_scenes([path], SceneFilter(frame_interval=1), faults=[]))
        scenes += found[:: max(1, len(found) // 2)][:2]
    worlds = [build(s, maps.get(s.current.map_location)) for s in scenes[: 2 * n]]
    keep = [i for i, world in enumerate(worlds) if world.valid][:n]
    blobs = root / "sensor_blobs" / split
    records = [scene_record(scenes[i], str(blobs)) for i in keep]
    driver = load_folder(planner, features=features)
    seen = None if driver.features is None else driver.features.predict(records)
    home = plan(driver.planner, records, seen)
    with tempfile.TemporaryDirectory() as folder:
        write_agent(Path(folder, "agent"), driver, str(planner), str(features or ""), [blobs])
        job = {
            "devkit": str(devkit.resolve()), "agent": str(Path(folder, "agent")),
            "logs": str(logs), "maps": str(place.maps_root()), "blobs": str(blobs),
            "tokens": [record.scene_token for record in records],
        }  # fmt: skip
        theirs = run_probe(python, job, PROBE)
    away = np.array([theirs["plans"][r.scene_token] for r in records])
    ours = score_trajectories([worlds[i] for i in keep], home[:, None].astype(float))["score"]
    scores = np.array([theirs["scores"][r.scene_token] for r in records])
    return {
        "version": theirs["version"], "scenes": len(records), "is_agent": theirs["is_agent"],
        "poses_m": float(np.abs(away - home)[..., :2].max()),
        "scores": float(np.abs(ours - scores).max()) if theirs["version"] == "v1" else None,
        "call_ms": 1e3 * float(np.median(theirs["calls_s"])),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", default=["mini", "single_gpu"])
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds alone, without doors")
    parser.add_argument("--planner", type=Path, help="folder of a saved planner, for the devkit")
    parser.add_argument("--features", type=Path)
    parser.add_argument("--root", type=Path, help="tree in NAVSIM's layout")
    parser.add_argument("--split", default="test")
    parser.add_argument("--devkit", type=Path, nargs="*", default=[], help="checkouts")
    parser.add_argument("--devkit-python", default="python")
    parser.add_argument("--scenes", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    message = moment()
    blind = floor("constant_velocity")
    doors = {"HTTP": http_ms, "gRPC": grpc_ms}
    for size in options.sizes:
        for driver in planners(size).values():
            if options.cpu:
                spent = cpu_s(driver, message, options.calls)
                print(f"{driver.name:<44} {spent.mean():.2f} CPU-s a call", flush=True)
                continue
            for door, measured in doors.items():
                print(told(driver.name, door, measured(driver, message, options.calls)), flush=True)
    for door, measured in () if options.cpu else doors.items():
        print(told("constant velocity", door, measured(blind, message, options.calls)), flush=True)
    for devkit in options.devkit:
        place = (options.planner, options.features, options.root, options.split)
        found = agent_check(*place, devkit, options.devkit_python, options.scenes)
        print(f"NAVSIM devkit {found}", flush=True)


if __name__ == "__main__":
    main()
