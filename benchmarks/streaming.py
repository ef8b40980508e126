"""Memory of a training's worlds: a list against a file, on a lake grown to many scenes.

`python -m benchmarks.streaming HOME --scenes 100000`: HOME holds a lake with `scene_worlds` (after
`make demo`). Its rows are written again and again under new tokens to a lake in a temporary folder;
then one process each reads the first `--listed` of them into a list and all of them into a spool,
and reads 5 000 at random. Peaks are each process's own: all of it, and what no file backs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from latentvla_core.lake.store import Lake

SHARD = 1000  # scenes

READ = """
import json, re, resource, sys, threading, time
import numpy as np
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.world import World
from latentvla_core.training.spool import Spool
root, kind, shards, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
most, running = [0], [True]
def watch():
    while running[0]:
        most[0] = max(most[0], anonymous()); time.sleep(0.05)
threading.Thread(target=watch, daemon=True).start()
lake = Lake(root)
def stream():
    for shard in range(shards):
        for row in lake.rows("scene_worlds", {"split": "train", "shard": shard}):
            yield World.from_row(row)
began = time.monotonic()
worlds = list(stream()) if kind == "list" else Spool(stream(), folder)
read_s, began = time.monotonic() - began, time.monotonic()
order = np.random.default_rng(0).permutation(len(worlds))[:5000]
points = sum(len(worlds[int(i)].object_tokens) for i in order)
running[0] = False
print(json.dumps({"scenes": len(worlds), "peak_gb": peak() / 1e9, "anonymous_gb": most[0] / 1e9,
                  "kept_gb": anonymous() / 1e9, "read_s": read_s, "cpu_s": time.process_time(),
                  "ms_per_sample": 1e3 * (time.monotonic() - began) / len(order), "objects": points,
                  "file_gb": getattr(worlds, "file_bytes", 0) / 1e9}))
"""


def grow(source: Lake, target: Lake, scenes: int) -> int:
    """Write `scenes` rows of train worlds in shards of `SHARD`; the number of shards."""
    rows = source.rows("scene_worlds", {"split": "train", "valid": True})
    shards = -(-scenes // SHARD)
    for shard in range(shards):
        chosen = [rows[(shard * SHARD + k) % len(rows)] for k in range(SHARD)]
        new = [
            {**row, "scene_token": f"{shard:04d}{k:06d}", "shard": shard}
            for k, row in enumerate(chosen)
        ]
        target.replace("scene_worlds", new, {"split": "train", "shard": shard})
    return shards


def measure(lake: Lake, kind: str, shards: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", READ, lake.root, kind, str(shards), str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("home", type=Path)
    arguments.add_argument("--scenes", type=int, default=100_000)
    arguments.add_argument("--listed", type=int, default=5_000)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake, began = Lake(f"{folder}/lake"), time.monotonic()
        shards = grow(Lake(str(given.home / "lake")), lake, given.scenes)
        print(f"lake of {shards * SHARD} scenes written in {time.monotonic() - began:.0f} s")
        for kind, count in (("list", -(-given.listed // SHARD)), ("spool", shards)):
            found = measure(lake, kind, count, Path(folder))
            print(kind, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
