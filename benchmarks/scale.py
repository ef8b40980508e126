"""Memory of what a training reads, on a lake grown to many scenes: lists against streams.

`python -m benchmarks.scale HOME --scenes 100000`: HOME holds a lake with `scenes` (after `make
demo`). Its rows are written again and again under new tokens, with features of random numbers, to a
lake in a temporary folder. Then one process each reads them as trainings once did, as lists (of
`--listed` scenes), and as they do now (of all). Memory is what no file backs (RssAnon), its peak
over reading everything and then 200 batches of 64 at random, above what the process had before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from latentvla_core.lake.store import Lake
from latentvla_core.vlm.features import empty

SHARD = 1000  # scenes
TOKENS = 16  # pooled picture tokens

READ = """
import json, os, re, sys, threading, time
import numpy as np
from pathlib import Path
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.context import StageContext
from pipelines.steps.reading import features_of, training_records
from latentvla_core.vlm.features import from_rows
kind, shards = sys.argv[1], int(sys.argv[2])
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
context = StageContext(Settings.from_env(), STAGES, print)
context.__dict__["listing"] = []
places = [{"split": "train", "shard": shard} for shard in range(shards)]
context.records(**places[0]); context.lake.rows("vlm_features", places[0])
before, peak, running = anonymous(), [0], [True]
def watch():
    while running[0]:
        peak[0] = max(peak[0], anonymous()); time.sleep(0.05)
threading.Thread(target=watch).start()
began = time.process_time()
if kind == "lists":
    records = [r for place in places for r in context.records(**place)]
    listed_b = anonymous() - before
    rows = [row for place in places for row in context.lake.rows("vlm_features", place)]
    features = from_rows(rows).aligned([r.scene_token for r in records])
    del rows
else:
    records = training_records(context, "labelled")
    listed_b = anonymous() - before
    features = features_of(context, records, "vlm_features")
read_s, began = time.process_time() - began, time.process_time()
rng, seen = np.random.default_rng(0), 0.0
for _ in range(200):
    rows = rng.integers(0, len(records), 64)
    seen += sum(float(records[int(i)].history_poses.sum()) for i in rows)
    seen += float(features.visual[rows].astype(np.float32).mean())
running[0] = False
print(json.dumps({"kind": kind, "scenes": len(records), "records_gb": round(listed_b / 1e9, 3),
    "peak_gb": round((peak[0] - before) / 1e9, 3), "features_gb": round((features.visual.nbytes +
    features.action.nbytes) / 1e9, 3), "read_cpu_s": round(read_s, 1),
    "ms_per_sample": round(1e3 * (time.process_time() - began) / 12800, 3)}))
"""


def grow(source: Lake, target: Lake, scenes: int, width: int) -> int:
    """Write `scenes` rows of both tables in shards of `SHARD`; the number of shards."""
    known = source.rows("scenes", {"split": "train"})
    shards, rng = -(-scenes // SHARD), np.random.default_rng(0)
    for shard in range(shards):
        place = {"split": "train", "shard": shard}
        tokens = [f"{k * shards + shard:08d}" for k in range(SHARD)]
        rows = [{**known[k % len(known)], **place, "scene_token": t} for k, t in enumerate(tokens)]
        target.replace("scenes", rows, place)
        made = empty(tokens, TOKENS, width, "")
        made.visual[:] = rng.normal(size=made.visual.shape)
        own = {"log_name": "log", "model_version": "v", "made_by": "m", **place}
        features = [
            {**row, **own, "visual": np.ravel(row["visual"]), "action": np.ravel(row["action"])}
            for row in made.rows()
        ]
        target.replace("vlm_features", features, place)
    return shards


def measure(home: Path, kind: str, shards: int, of: int) -> dict[str, float]:
    env = {
        "LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug",
        "LATENTVLA_SHARDS": str(of if kind == "streams" else shards), "OMP_NUM_THREADS": "1",
        "LATENTVLA_SOURCES": str(home / "sources.yaml"),
    }  # fmt: skip
    command = [sys.executable, "-c", READ, kind, str(shards)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**_plain_env(), **env}
    )
    return json.loads(done.stdout)


def _plain_env() -> dict[str, str]:
    import os

    return dict(os.environ)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("home", type=Path)
    arguments.add_argument("--scenes", type=int, default=100_000)
    arguments.add_argument("--listed", type=int, default=10_000)
    arguments.add_argument("--width", type=int, default=128, help="of the features")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, began = Path(folder), time.monotonic()
        (home / "sources.yaml").write_text(f"splits: {{train: {{logs: {folder}}}}}")
        lake = Lake(f"{folder}/lake")
        shards = grow(Lake(str(given.home / "lake")), lake, given.scenes, given.width)
        print(f"lake of {shards * SHARD} scenes in {time.monotonic() - began:.0f} s", flush=True)
        listed = -(-given.listed // SHARD)
        for kind, count in (("lists", listed), ("streams", shards)):
            print(json.dumps(measure(home, kind, count, shards)), flush=True)


if __name__ == "__main__":
    main()
