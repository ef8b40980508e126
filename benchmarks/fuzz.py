"""Damaged and mutated files against every reader: hangs, crashes, untyped errors, silent acceptances.

python -m benchmarks.fuzz --world FOLDER [--count 6000] [--seed 0] [--kinds log,map]

FOLDER is what `latentvla world write` made. Each mutation is read in a forked child with 2 s of
processor time and 500 MB of memory beside what the parent holds. A reading counts as
* typed: a LatentVLAError, which names the file;
* read: no error, and the result keeps the reader's promise (finite numbers, the shape asked for);
* silent: no error, and the promise is broken;
* untyped, hang, crash: any other exception, out of time, ended by a signal.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.errors import LatentVLAError

TIME_S, WALL_S, MEMORY_B = 2.0, 20.0, 500_000_000
OUTCOMES = ("read", "typed", "untyped", "silent", "hang", "crash")
TOKENS = (b"nan", b"inf", b"-1", b"1e999", b"9" * 4400, b"null", b"\x00", b"[", b"{", b"&a *a", b"~",
          b"2020-13-45", b"../", b"\xff\xfe", b"!!python/object:os.system")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file."""

    name: str
    honest: bytes
    place: str
    """Where the mutated file goes, below the working folder."""
    read: Callable[[Path], bool]
    """Reads the working folder; whether the result keeps the reader's promise."""


def mutate(honest: bytes, rng: np.random.Generator) -> bytes:
    """One to eight changes: bits, bytes, cuts, repeats, and words that parsers fear; half of the
    mutations change bits and bytes where they stand, which leaves most formats readable.
    """
    data = bytearray(honest)
    kinds_of_change = 2 if rng.random() < 0.5 else 6
    for _ in range(int(rng.integers(1, 9))):
        at, end = sorted(int(i) for i in rng.integers(0, len(data) + 1, 2))
        end = min(end, at + int(rng.integers(1, 64)))
        match int(rng.integers(0, kinds_of_change)):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(0, 8))
            case 1:
                data[at:end] = rng.integers(0, 256, end - at, dtype=np.uint8).tobytes()
            case 2 if rng.random() < 0.2:
                del data[at:]
            case 3:
                data[at:at] = data[at:end] * int(rng.integers(1, 4))
            case 4:
                data[at:end] = TOKENS[int(rng.integers(0, len(TOKENS)))]
            case _:
                del data[at:end]
    return bytes(data)


def run_one(kind: Kind, folder: Path, data: bytes) -> tuple[str, str]:
    """(outcome, what was raised) of one mutation, read in a child."""
    (folder / kind.place).parent.mkdir(parents=True, exist_ok=True)
    (folder / kind.place).write_bytes(data)
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        _guard()
        outcome, said = _attempt(kind, folder)
        os.write(into, f"{outcome}\n{said}"[:2000].encode("utf-8", "replace"))
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        told = pipe.read().decode("utf-8", "replace")
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        ended = os.WTERMSIG(status)
        timers = (signal.SIGALRM, signal.SIGPROF)
        return ("hang" if ended in timers else "crash"), f"signal {ended}"
    outcome, _, said = told.partition("\n")
    return outcome or "crash", said


def _guard() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_B, held + MEMORY_B))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(name, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, TIME_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)


def _attempt(kind: Kind, folder: Path) -> tuple[str, str]:
    try:
        return ("read" if kind.read(folder) else "silent"), ""
    except LatentVLAError as error:
        text = str(error)
        return ("typed", text) if len(text) < 20_000 else ("untyped", f"{len(text)} characters")
    except BaseException as error:
        return "untyped", f"{type(error).__name__}: {str(error)[:300]}"


# ---- kinds ---------------------------------------------------------------------------------------


def _log(folder: Path) -> bool:
    from latentvla_core.data.navsim import read_log_slots

    slots, faults = read_log_slots(folder / "log.pkl")
    if faults:
        raise faults[0]
    return all(np.isfinite(f.ego_pose).all() for f in slots if f is not None)


def _submission(folder: Path) -> bool:
    from latentvla_core.scoring.plans import read_trajectories

    return _are_plans(read_trajectories(folder / "plans.pkl"))


def _trajectories(folder: Path) -> bool:
    from latentvla_core.scoring.plans import read_trajectories

    return _are_plans(read_trajectories(folder / "plans.parquet"))


def _are_plans(plans: Any) -> bool:
    """Every plan is (8, 3) numbers, or says why it is none; every key is a text."""
    found = [
        (token, name, plan) for token, of in plans.of_scene.items() for name, plan in of.items()
    ]
    return all(
        isinstance(token, str) and isinstance(name, str)
        and (bool(plan) if isinstance(plan, str) else plan.shape == (8, 3) and plan.dtype == float)
        for token, name, plan in found
    )  # fmt: skip


def _map(folder: Path) -> bool:
    import shapely

    from latentvla_core.data.map_files.maps import load_map

    road = load_map(folder, "us-ma-boston")
    return bool(np.isfinite(shapely.get_coordinates(road.lanes.shapes)).all())


def _yaml(folder: Path) -> bool:
    from latentvla_core.data.sequences import describe

    found = describe(folder)
    return bool(np.isfinite(found.pose_ahead_of_rear_axle_m)) and found.max_pose_gap_s > 0


def _poses(folder: Path) -> bool:
    from latentvla_core.data.pose_file import check_motion, check_times, read_poses

    file = folder / "poses.csv"
    _, times_s, poses = read_poses(file)
    check_times(times_s, 1.0, str(file))
    check_motion(times_s, poses, str(file), heading=True)
    return bool(np.isfinite(times_s).all() and np.isfinite(poses).all())


def _picture(name: str) -> Callable[[Path], bool]:
    def read(folder: Path) -> bool:
        from latentvla_core.data.cameras import load_image

        return load_image(str(folder), name, (64, 36)).shape == (36, 64, 3)

    return read


def _lidar(folder: Path) -> bool:
    from latentvla_core.data.lidar import read_pcd

    points = read_pcd(folder / "cloud.pcd")
    return (
        points.shape[0] == 6 and points.dtype == np.float32 and bool(np.isfinite(points[:3]).all())
    )


def _model(folder: Path) -> bool:
    """A model folder whose weights or configuration were changed; the checksum is made right, so
    that what lies behind it is reached.
    """
    import json

    from latentvla_core.planner.model import load
    from latentvla_core.training.artifacts import file_sha256

    config = folder / "model" / "config.json"
    try:
        content = json.loads(config.read_text())
        if "weights_sha256" in content:
            content["weights_sha256"] = file_sha256(folder / "model" / "model.safetensors")
            config.write_text(json.dumps(content))
    except (ValueError, TypeError, OSError):
        pass  # the reader says so
    return sum(p.numel() for p in load(folder / "model").parameters()) > 0


def _checkpoint(folder: Path) -> bool:
    """The newest checkpoint of a training; resumed with its own settings."""
    import torch

    from latentvla_core.training import checkpoint

    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    return checkpoint.load(folder / "checkpoints", network, optimizer, _SETTINGS) == 7


def _sources(folder: Path) -> bool:
    from pipelines.settings import read_sources

    found = read_sources(folder / "sources.yaml", {"DATA": "/data"}, folder)
    return all(source.split and source.logs and source.format for source in found)


def _recipe(folder: Path) -> bool:
    from latentvla_core.recipes import recipe_named

    return recipe_named(str(folder / "mine.yaml")).name == "mine"


def kinds(world: Path) -> list[Kind]:
    """Honest files of every kind: those of an embedded world, and little ones made here."""
    with tempfile.TemporaryDirectory() as text:
        own = Path(text)
        _write_small(own)
        first = {suffix: next(world.rglob(f"*{suffix}")) for suffix in (".pkl", ".jpg")}
        maps = next(world.rglob("map.gpkg"))
        small = {path.name: path.read_bytes() for path in own.iterdir()}
        models = _trained(own / "trained")
    index = b'{"us-ma-boston": {"version": "1"}}'

    def map_of(folder: Path) -> bool:
        (folder / "nuplan-maps-v1.0.json").write_bytes(index)
        return _map(folder)

    return [
        Kind("log", first[".pkl"].read_bytes(), "log.pkl", _log),
        Kind("submission", small["plans.pkl"], "plans.pkl", _submission),
        Kind("trajectories", small["plans.parquet"], "plans.parquet", _trajectories),
        Kind("map", maps.read_bytes(), "us-ma-boston/1/map.gpkg", map_of),
        Kind("yaml", _YAML, "sequence.yaml", _yaml),
        Kind("csv", small["poses.csv"], "poses.csv", _poses),
        Kind("jpg", first[".jpg"].read_bytes(), "a.jpg", _picture("a.jpg")),
        Kind("png", small["a.png"], "a.png", _picture("a.png")),
        Kind("lidar", small["cloud.pcd"], "cloud.pcd", _lidar),
        Kind("sources", _SOURCES, "sources.yaml", _sources),
        Kind("recipe", _RECIPE, "mine.yaml", _recipe),
        *(
            Kind(name, models[place], place, beside(models, place, reader))
            for name, place, reader in (
                ("weights", "model/model.safetensors", _model),
                ("model config", "model/config.json", _model),
                ("checkpoint", f"{_STEP}/model.safetensors", _checkpoint),
                ("checkpoint state", f"{_STEP}/optimizer.pt", _checkpoint),
                ("checkpoint progress", f"{_STEP}/progress.json", _checkpoint),
            )
        ),
    ]


def beside(
    files: Mapping[str, bytes], mutated: str, read: Callable[[Path], bool]
) -> Callable[[Path], bool]:
    """Reads a folder in which the other files lie, too."""

    def whole(folder: Path) -> bool:
        for name, content in files.items():
            if name != mutated and name.split("/")[0] == mutated.split("/")[0]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        if mutated.startswith(_STEP) and not mutated.endswith("progress.json"):
            _sign(folder / _STEP)
        return read(folder)

    return whole


def _sign(step: Path) -> None:
    """Right checksums, so that what lies behind them is reached."""
    import json

    from latentvla_core.training.artifacts import file_sha256

    progress = json.loads((step / "progress.json").read_text())
    progress["sha256"] = {name: file_sha256(step / name) for name in progress["sha256"]}
    (step / "progress.json").write_text(json.dumps(progress))


def _trained(folder: Path) -> dict[str, bytes]:
    """Relative name → content of a tiny model's folder and of a checkpoint."""
    import torch

    from latentvla_core.planner.baselines import EgoStatusConfig, EgoStatusMlp
    from latentvla_core.planner.model import save
    from latentvla_core.training import checkpoint

    save(EgoStatusMlp(EgoStatusConfig.debug()), folder / "model")
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(folder / "checkpoints", network, optimizer, 7, _SETTINGS)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


_STEP = "checkpoints/step_00000007"
_SETTINGS = {"steps": 9, "seed": 0}
_SOURCES = b"""embedded_world: true
splits:
  mine: {format: frames_poses, logs: "${DATA}/drives", part: [0.0, 0.8], filter: {has_route: false}}
  more: {logs: /data/logs, sensors: /data/blobs, maps: /data/maps}
"""
_RECIPE = b"""base: debug
latent: {gap_frames: 2, training: {seed: 1, learning_rate: 0.001}}
planner: {train: {training: {steps: 5}}}
metrics: [pdms]
"""


_YAML = b"""name: drive
pose_ahead_of_rear_axle_m: 1.03
camera_height_m: 1.65
focal_px: [370.7, 370.9]
center_px: [313.1, 95.6]
max_pose_gap_s: 1.0
heading_checked: true
"""


def _write_small(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    from latentvla_core.data.lidar import write_pcd
    from latentvla_core.data.v2.submissions import Plan, Submission, write_submission

    t = np.arange(0, 4, 0.1)
    rows = [f"{i:06d},{s:.3f},{8 * s:.4f},0.0,0.0" for i, s in enumerate(t)]
    (folder / "poses.csv").write_text("\n".join(["frame,timestamp_s,x,y,heading", *rows]))
    grey = np.arange(36 * 64 * 3, dtype=np.uint8).reshape(36, 64, 3)
    Image.fromarray(grey).save(folder / "a.png")
    write_pcd(folder / "cloud.pcd", np.abs(np.random.default_rng(0).normal(5, 1, (6, 50))))
    plan = [[float(i), 0.0, 0.0] for i in range(8)]
    tokens = [f"{i:016x}" for i in range(20)]
    columns = {"scene_token": tokens, "trajectory_id": ["a"] * 20, "poses": [plan] * 20}
    pq.write_table(pa.table(columns), folder / "plans.parquet")
    found = {token: Plan(np.array(plan, np.float32)) for token in tokens}
    write_submission(folder / "plans.pkl", Submission(version="v1", first_stage=found))


def main(arguments: list[str]) -> int:
    """Prints a row per kind and the first of each bad outcome; the exit code is 1 for any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="")
    chosen = parser.parse_args(arguments)
    files = [k for k in kinds(chosen.world) if k.name in (chosen.kinds or k.name).split(",")]
    bad: dict[str, str] = {}
    total: Counter[str] = Counter()
    print("kind " + " ".join(OUTCOMES), flush=True)
    for kind in files:
        found: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as folder:
            unchanged = run_one(kind, Path(folder), kind.honest)
            (Path(folder) / kind.place).write_bytes(kind.honest)
            kind.read(Path(folder))  # here too: children need not import what it needs
        if unchanged[0] != "read":
            raise SystemExit(f"the honest {kind.name} is not read: {unchanged}")
        for i in range(chosen.count // len(files)):
            rng = np.random.default_rng([chosen.seed, i])
            with tempfile.TemporaryDirectory() as folder:
                outcome, said = run_one(kind, Path(folder), mutate(kind.honest, rng))
            found[outcome] += 1
            if outcome not in ("read", "typed"):
                bad.setdefault(f"{kind.name} {outcome} {said[:120]}", f"mutation {i}")
        print(kind.name, *(found[name] for name in OUTCOMES), flush=True)
        total += found
    print("all", *(total[name] for name in OUTCOMES), f"= {sum(total.values())} mutations")
    for what, where in bad.items():
        print(f"  {what} ({where})")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
