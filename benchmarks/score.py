"""How long scoring takes on one core: preparing a scene, and each trajectory of 1, 16 and 256 in a
scene.

    python -m benchmarks.score                         # official golden scenes if they are at hand,
    else the embedded world
    python -m benchmarks.score --root TREE --split S   # any NAVSIM tree
    python -m benchmarks.score --devkit CHECKOUT --devkit-python PYTHON     # the official devkit on
    the same scenes
    python -m benchmarks.score --numpy                 # the NumPy twins beside the compiled kernels
    python -m benchmarks.score --device cuda           # the torch path too, there (or: --device
    cpu)
    python -m benchmarks.score --workers 2             # only: how `latentvla score` scales with
    processes

CPU seconds of this process (not wall time) are measured, so that other work on the machine disturbs
less; on a GPU it is wall time between synchronisations. Every number is the best of several rounds
over the same scenes. `--out FILE.json` writes them with the conditions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core, before NumPy starts its threads
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from benchmarks.score_processes import scaling
from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.layout import DataRoot
from latentvla_core.data.map_files.maps import MapStore
from latentvla_core.pdms import World, backend, build, score_trajectories
from latentvla_core.types import Array, Scene

COUNTS = (1, 16, 256)
TORCH_COUNTS = (16, 256, 4096)
DEVKIT_MS = {
    "pdms": {1: 67.0, 256: 8.2},
    "epdms": {1: 263.0, 256: 24.0},
}  # the official devkit on another machine
DEVKIT_PREPARE_MS = {"pdms": 2060.0, "epdms": 2460.0}
AIM_MS = {"pdms": {1: 3.0, 256: 0.1}}
AIM_PREPARE_MS = 40.0


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        root, split = _tree(options, Path(scratch))
        if options.workers:
            scaling(root, split, options.workers, options.plans, Path(scratch))
            return
        scenes, maps = _scenes(root, split, options.scenes)
        prepare_ms, worlds = _prepare(scenes, maps, options.rounds)
        beside = _devkit(options, root, split) if options.devkit else {}
    result = beside | {
        "tree": split,
        "scenes": len(worlds),
        "machine": platform.processor() or platform.machine(),
    }
    result |= {
        "objects": float(np.mean([len(w.object_tokens) for w in worlds])),
        "prepare_ms": prepare_ms,
    }
    print(
        f"{len(worlds)} scenes of {split!r}, {result['objects']:.0f} objects each; CPU time on one core"
    )
    print(
        f"prepare a scene (both metrics)  {prepare_ms:8.2f} ms   aim {AIM_PREPARE_MS:g}   devkit elsewhere {DEVKIT_PREPARE_MS}"
    )
    for twin in ("numba", "numpy") if options.numpy else ("numba",):
        with backend.using(twin):
            result[twin] = {
                metric: _metric(metric, twin, worlds, options.rounds)
                for metric in ("pdms", "epdms")
            }
    if options.device:
        result["torch"] = {
            m: torch_path(m, worlds, options.device, options.rounds) for m in ("pdms", "epdms")
        }
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=2))


def _devkit(options: argparse.Namespace, root: Path, split: str) -> dict[str, object]:
    """The official devkit on scenes of the same tree."""
    from benchmarks import devkit

    if not options.devkit_python:
        raise SystemExit(
            "--devkit needs --devkit-python, the python of the devkit's own environment"
        )
    found = devkit.side_by_side(
        options.devkit, options.devkit_python, root, split, min(options.scenes, 8)
    )
    print(devkit.report(found))
    return {"devkit": found}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="NAVSIM tree")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--scenes", type=int, default=16, help="how many scenes, spread over the split"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--numpy", action="store_true", help="measure the NumPy twins too (slow)")
    parser.add_argument(
        "--devkit", help="checkout of the navsim devkit to measure beside, v1.1 or v2.2"
    )
    parser.add_argument("--devkit-python", help="python of the devkit's own environment")
    parser.add_argument("--device", help="measure the torch path on this device: cpu, cuda")
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="measure `latentvla score` on up to so many processes",
    )
    parser.add_argument("--plans", type=int, default=64, help="plans in each scene, with --workers")
    parser.add_argument("--out", help="JSON file to write")
    return parser.parse_args()


def _tree(options: argparse.Namespace, scratch: Path) -> tuple[Path, str]:
    """The tree to measure on: the one given, the golden scenes, or a small embedded world."""
    if options.root:
        return Path(options.root), options.split
    shared = Path(os.environ.get("LATENTVLA_SHARED", Path(__file__).parents[1].parent / "shared"))
    if (shared / "golden" / "data").exists():
        return shared / "golden" / "data", "golden"
    from latentvla_core.world.write import WorldConfig, write_world

    print("no golden scenes at hand; writing an embedded world", file=sys.stderr)
    write_world(scratch, WorldConfig.for_logs(2, 0))
    return scratch, "test"


def _scenes(root: Path, split: str, count: int) -> tuple[list[Scene], MapStore]:
    """`count` scenes spread over the unmodified logs of a split."""
    place = DataRoot.find(root)
    logs = [log for log in place.logs(split) if "/syn-" not in log]
    scenes = list(iter_scenes(logs, SceneFilter(frame_interval=1)))
    picked = np.unique(np.linspace(0, len(scenes) - 1, count).astype(int))
    return [scenes[i] for i in picked], MapStore(place.maps_root())


def _prepare(scenes: list[Scene], maps: MapStore, rounds: int) -> tuple[float, list[World]]:
    """Mean milliseconds to build a world, map already read, and the worlds that can be scored."""
    roads = [maps.get(scene.current.map_location) for scene in scenes]
    worlds = [
        build(scene, road) for scene, road in zip(scenes, roads, strict=True)
    ]  # warms indices and kernels
    seconds = _best(
        lambda: [build(scene, road) for scene, road in zip(scenes, roads, strict=True)],
        min(rounds, 3),
    )
    return seconds / len(scenes) * 1e3, [world for world in worlds if world.valid]


def _metric(metric: str, twin: str, worlds: list[World], rounds: int) -> dict[int, float]:
    """Milliseconds per trajectory by number of proposals."""
    out = {}
    for count in COUNTS:
        plans = _plans(worlds, count)
        score_trajectories(worlds[:1], plans[:1], metric=metric)  # type: ignore[arg-type]
        tries = 1 if twin == "numpy" and count > 16 else rounds
        seconds = _best(lambda p=plans: score_trajectories(worlds, p, metric=metric), tries)  # type: ignore[arg-type,misc]
        out[count] = seconds / len(worlds) / count * 1e3
        devkit = DEVKIT_MS[metric].get(count)
        ratio = f"devkit elsewhere {devkit:g} ms, ratio {devkit / out[count]:.0f}" if devkit else ""
        aim = f"aim {AIM_MS[metric][count]:g}" if count in AIM_MS.get(metric, {}) else ""
        print(
            f"{metric:<6} {twin:<6} {count:>4} proposals  {out[count]:8.4f} ms each   {aim:<8} {ratio}",
            flush=True,
        )
    return out


def torch_path(
    metric: str,
    worlds: list[World],
    device: str,
    rounds: int,
    counts: tuple[int, ...] = TORCH_COUNTS,
) -> dict:
    """Milliseconds per trajectory by number of proposals, with the throughput, of the torch path on
    a device.
    """
    import torch

    from latentvla_core.pdms.tensors.torch_score import TorchWorlds

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gpu = torch.device(device).type == "cuda"
    clock = _synchronized if gpu else time.process_time
    prepared = TorchWorlds.from_worlds(worlds, device, metric=metric)  # type: ignore[arg-type]
    out = {}
    for count in counts:
        many = count * len(worlds) > 1 << 14 and not gpu  # on a CPU one scene will do
        few = TorchWorlds.from_worlds(worlds[:1], device, metric=metric) if many else prepared  # type: ignore[arg-type]
        plans = torch.tensor(np.stack(_plans(worlds[: len(few)], count)), device=device)
        few.score(plans[:, :2])
        least = _best(
            lambda p=plans, w=few: w.score(p), max(2, rounds if count < 4096 else 2), clock
        )  # type: ignore[misc]
        each = least / plans[..., 0, 0].numel()
        out[count] = {"ms_each": each * 1e3, "per_minute": 60 / each}
        print(
            f"{metric:<6} torch {device:<5} {count:>4} proposals  {each * 1e3:8.4f} ms each   {60 / each:12,.0f} a minute",
            flush=True,
        )
    torch.set_num_threads(threads)
    return out


def _synchronized() -> float:
    """Wall clock after the GPU has finished."""
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def _plans(worlds: list[World], count: int) -> list[Array]:
    """Per scene `count` smooth plans (count, 8, 3): speeds from standing to half above the ego's,
    bends to both sides.
    """
    rng, t = np.random.default_rng(0), np.arange(1, 9) * 0.5
    out = []
    for world in worlds:
        speed = rng.uniform(0, 1.5 * max(world.ego_state[3], 4.0), (count, 1))
        bend = rng.normal(0, 0.03, (count, 1))
        along = np.maximum(speed * t + rng.normal(0, 0.4, (count, 1)) * t**2, 0)
        out.append(np.stack([along, bend * along**2 / 2, bend * along], axis=-1))
    return out


def _best(
    run: Callable[[], object], rounds: int, clock: Callable[[], float] = time.process_time
) -> float:
    """Least seconds of several runs, by default of CPU."""
    best = float("inf")
    for _ in range(rounds):
        start = clock()
        run()
        best = min(best, clock() - start)
    return best


if __name__ == "__main__":
    main()
