"""A LeRobot data set as LeRobot's own reader hands it to a training. Run as a process of its own:

python tests/core/lerobot_reader.py ROOT  →  one JSON of what was read

The reader lies apart (`make readers`). Its torchvision has the compiled operators of another build
of torch; nothing here calls them, so their registration is left out.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

READERS = Path(sys.prefix) / "readers"


def read(root: str) -> dict[str, Any]:
    """Facts of the data set and every frame of it, pictures as their shape and mean by channel."""
    sys.path.append(str(READERS))
    name = "torchvision._meta_registrations"
    sys.modules[name] = types.ModuleType(name)
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # type: ignore[import-not-found]

    found = LeRobotDataset("local/drives", root=root)
    return {
        "episodes": found.num_episodes,
        "fps": found.fps,
        "stats": sorted(found.meta.stats),
        "frames": [_told(found[k]) for k in range(len(found))],
    }


def _told(item: dict[str, Any]) -> dict[str, Any]:
    told = {}
    for name, value in item.items():
        if isinstance(value, str):
            told[name] = value
        elif value.ndim == 3:
            told[name] = {"shape": list(value.shape), "mean": value.mean(dim=(1, 2)).tolist()}
        else:
            told[name] = value.tolist()
    return told


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1])))
