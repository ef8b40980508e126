"""What a first run builds once and keeps: MLflow's database and the scorer's compiled kernels.

The demo starts it beside the writing of its world and the first training, which leave a core free:
half a minute that nobody waits for. `python -m pipelines.steps.warm` in an image build does the
same for a container.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from latentvla_core.errors import LatentVLAError
from latentvla_core.pdms import backend
from pipelines.settings import Settings


def start() -> None:
    """In a process of its own that gives way to all others. If it dies, the line builds what it
    needs itself.
    """
    command = [sys.executable, "-m", "pipelines.steps.warm"]
    subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def main() -> None:
    from pipelines.registry.connection import connect

    if hasattr(os, "nice"):
        os.nice(15)
    connect(Settings.from_env())
    if backend.active() == "numba":
        compile_kernels()


def compile_kernels() -> None:
    """Prepare and score one scene of a tiny world without pictures; numba keeps on disk what it
    compiles.
    """
    from latentvla_core.data.filters import SceneFilter, iter_scenes
    from latentvla_core.data.map_files.maps import MapStore
    from latentvla_core.pdms.score import score_trajectories
    from latentvla_core.pdms.world import build
    from latentvla_core.world.write import WorldConfig, write_world

    window = SceneFilter(
        num_history_frames=4, num_future_frames=10, frame_interval=1, has_route=True
    )
    with tempfile.TemporaryDirectory() as folder:
        config = WorldConfig(
            logs_train=1, logs_val=0, logs_test=0, seconds_per_log=7.0, cameras=(), workers=1
        )
        tree = write_world(Path(folder) / "world", config)
        logs = [tree.log_path("train", name) for name in tree.logs["train"]]
        maps = MapStore(tree.root / "maps")
        worlds = [
            build(scene, maps.get(scene.current.map_location))
            for scene in iter_scenes(logs, window, "train")
        ]
    for metric in ("pdms", "epdms"):
        score_trajectories(worlds, np.zeros((len(worlds), 1, 8, 3)), metric=metric)


if __name__ == "__main__":
    try:
        main()
    except LatentVLAError as error:
        sys.exit(f"error: {error}")
