"""Where things lie below a NAVSIM data root (navsim_format.md §1): splits, logs, sensor blobs,
maps, synthetic scenes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from latentvla_core.data.fields import near_miss
from latentvla_core.data.files import exists, is_remote, join, list_dir
from latentvla_core.errors import SetupError

DATA_ROOT_VARIABLE = "OPENSCENE_DATA_ROOT"
MAPS_ROOT_VARIABLE = "NUPLAN_MAPS_ROOT"


@dataclass(frozen=True, slots=True)
class DataRoot:
    """A folder (or `s3://…` prefix) in OpenScene's layout."""

    root: str

    @staticmethod
    def find(root: str | Path | None = None) -> DataRoot:
        """The given root, or $OPENSCENE_DATA_ROOT. Raises SetupError when there is neither, or no
        such folder.
        """
        text = str(root) if root else os.environ.get(DATA_ROOT_VARIABLE, "")
        if not text:
            raise SetupError(
                f"no data root given; name a folder or set {DATA_ROOT_VARIABLE} to the one with navsim_logs/"
            )
        found = DataRoot(text.rstrip("/"))
        if not exists(found.logs_folder):
            raise SetupError(f"{found.logs_folder} does not exist; {_layout_hint(found.root)}")
        return found

    @property
    def logs_folder(self) -> str:
        return join(self.root, "navsim_logs")

    def splits(self) -> list[str]:
        """Names of the data splits that exist."""
        return [
            path.rstrip("/").rsplit("/", 1)[-1]
            for path in list_dir(self.logs_folder)
            if not path.endswith(".pkl")
        ]

    def logs(self, split: str) -> list[str]:
        """Sorted paths of the log pickles of a split. Raises SetupError, with the nearest name, if
        it does not exist.
        """
        folder = join(self.logs_folder, split)
        if split not in self.splits():
            names = ", ".join(self.splits()) or "none"
            raise SetupError(
                f"{folder} does not exist; splits there: {names}{near_miss(split, self.splits())}"
            )
        return [path for path in list_dir(folder) if path.endswith(".pkl")]

    def stray_files(self, split: str) -> list[str]:
        """What lies in a log folder and is no log: the devkit would open it as one and fail."""
        return [
            path for path in list_dir(join(self.logs_folder, split)) if not path.endswith(".pkl")
        ]

    def sensor_root(self, split: str) -> str:
        """What picture and lidar paths of the split are relative to."""
        return join(self.root, f"sensor_blobs/{split}")

    def maps_root(self) -> str:
        """`maps/` below the root if it holds a map index, else $NUPLAN_MAPS_ROOT, else where the
        former would be.

        A tree that brings its own maps means those, whatever the environment says.
        """
        own = join(self.root, "maps")
        return (
            own
            if exists(join(own, "nuplan-maps-v1.0.json"))
            else os.environ.get(MAPS_ROOT_VARIABLE, "") or own
        )

    def synthetic_scenes(self, name: str) -> list[str]:
        """Sorted pickles of a two-stage set such as `navhard_two_stage`; empty when it is not
        there.
        """
        folder = join(self.root, f"{name}/synthetic_scene_pickles")
        return [path for path in list_dir(folder) if path.endswith(".pkl")]


def _layout_hint(root: str) -> str:
    """What is probably meant, for a root without navsim_logs/."""
    name = root.rstrip("/").rsplit("/", 1)[-1]
    if name == "navsim_logs":
        return "give its parent folder, which also holds sensor_blobs/ and maps/"
    if not is_remote(root) and not Path(root).exists():
        parent = Path(root).parent
        near = near_miss(name, (p.name for p in parent.iterdir())) if parent.is_dir() else ""
        return f"the folder {root} itself does not exist{near}"
    for other in ("meta_datas", "openscene_meta_datas", "logs"):
        if exists(join(root, other)):
            return f"{other}/ found: rename or link it to navsim_logs/"
    return "the data root is the folder that holds navsim_logs/, sensor_blobs/ and maps/"
