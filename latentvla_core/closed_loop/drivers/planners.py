"""Trained planners at the wheel: a saved folder, or a registered model that a plug-in resolves.

The pictures go through the JPEG of the training data before a planner reads them, so that it sees
on the road what it saw in training.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.closed_loop.driver import HISTORY_FRAMES, Driver, Observation
from latentvla_core.closed_loop.drivers.baselines import FLOORS, floor
from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import FRONT_CAMERA, PLAN_STEPS, Array, SceneRecord

if TYPE_CHECKING:
    from latentvla_core.planner.baselines import EgoStatusMlp
    from latentvla_core.planner.model import Planner

PLUG_IN = "latentvla.planners"
"""Entry points: a function (name) → Driver or None, for names like ipad_student@champion."""
SEARCH = "search:"
CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0")
JPEG = {"quality": 88, "subsampling": 0}
"""As `world.write` does."""


@dataclass(slots=True)
class PlannerDriver:
    """A planner of `planner/`, with the VLM or student whose features it was fused with."""

    name: str
    planner: Planner | EgoStatusMlp
    features: Any = None
    """A `Student`, a `Vlm`, or None."""
    cameras: tuple[str, ...] = CAMERAS
    is_privileged: bool = False
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def start(self, seed: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="latentvla-drive-")

    def drive(self, seen: Observation) -> Array:
        """Raises DataError where the planner cannot use what it sees."""
        if self._folder is None:
            self.start(0)
        assert self._folder is not None
        root = Path(self._folder.name)
        return self.plan_record(record_of(seen, write_pictures(seen, root), root))

    def plan_record(self, record: SceneRecord) -> Array:
        """The plan of a record whose pictures lie on disk; see `drive`."""
        from latentvla_core.planner.plan import plan

        faults: list[str] = []
        poses = plan(self.planner, [record], self.features_of([record]), faults=faults)[0]
        if any(faults):
            raise DataError(faults[0])
        return poses

    def features_of(self, records: Sequence[SceneRecord]) -> Any:
        """What its student or VLM says of records; None for a planner that asks nobody."""
        if self.features is None:
            return None
        from latentvla_core.distill.model import Student

        if isinstance(self.features, Student):
            return self.features.predict(records)
        from latentvla_core.vlm.samples import build_samples

        return self.features.predict(build_samples(records, None, self.features.config))


def write_pictures(seen: Observation, root: Path) -> dict[str, str]:
    """Camera → JPEG below `root`; the pictures of the moment before are overwritten."""
    from PIL import Image

    paths = {}
    for name, picture in seen.pictures.items():
        paths[name] = f"{name}.jpg"
        Image.fromarray(picture).save(root / paths[name], "JPEG", **JPEG)
    return paths


def record_of(seen: Observation, paths: dict[str, str], root: Path | str) -> SceneRecord:
    """An observation as the row that planners read; of the future, of objects and of the map it
    says nothing.
    """
    names = tuple(n for n in seen.cameras if n in paths)
    rig = [seen.cameras[n] for n in names]
    front = [""] * (HISTORY_FRAMES - 1) + [paths.get(FRONT_CAMERA, "")]
    return SceneRecord(
        scene_token=seen.token,
        log_name=seen.token,
        split="closed_loop",
        map_location="",
        timestamp_us=seen.timestamp_us,
        sensor_root=str(root),
        ego_pose=np.zeros(3),
        ego_velocity_mps=seen.velocity_mps,
        ego_acceleration_mps2=seen.acceleration_mps2,
        command=int(seen.command),
        history_poses=seen.history_poses,
        history_velocities_mps=seen.history_velocities_mps,
        history_accelerations_mps2=seen.history_accelerations_mps2,
        future_poses=np.zeros((0, 3)),
        front_paths=(*front, *[""] * PLAN_STEPS),
        camera_names=names,
        camera_paths=tuple(paths[n] for n in names),
        camera_intrinsics_px=np.array([c.intrinsics_px for c in rig]).reshape(-1, 3, 3),
        camera_rotations=np.array([c.rotation for c in rig]).reshape(-1, 3, 3),
        camera_translations_m=np.array([c.translation_m for c in rig]).reshape(-1, 3),
        lidar_path="",
        object_boxes=np.zeros((0, 7)),
        object_classes=np.zeros(0, np.int8),
        object_velocities_mps=np.zeros((0, 2)),
        roadblock_ids=(),
        has_objects=False,
    )


def load_folder(folder: Path, name: str = "", features: Path | None = None) -> PlannerDriver:
    """The driver of a folder `planner.model.save` wrote; `features`: folder of its student or
    VLM.
    """
    from latentvla_core.planner.model import load

    planner = load(folder)
    fusion = getattr(planner, "fusion", None)
    if fusion is not None and features is None:
        raise SetupError(
            f"{folder} is fused with a VLM or student; name its folder too: --features DIR"
        )
    model = load_features(features) if features is not None and fusion is not None else None
    return PlannerDriver(name or folder.name, planner, model, cameras_of(planner))


def cameras_of(planner: Planner | EgoStatusMlp) -> tuple[str, ...]:
    """The cameras to render for a planner: those of its configuration, or of the panorama; none for
    one that sees nothing.
    """
    from latentvla_core.planner.baselines import EgoStatusMlp

    if isinstance(planner, EgoStatusMlp):
        return ()
    return tuple(getattr(planner.config, "cameras", CAMERAS))


def load_features(folder: Path) -> Any:
    """A student or a VLM, whichever the folder holds."""
    from latentvla_core.distill.model import load_student

    try:
        return load_student(folder)
    except (SetupError, DataError, TypeError, KeyError):
        from latentvla_core.vlm.model import load

        return load(folder)


def driver_of(name: str, features: Path | None = None) -> Driver:
    """The driver of a baseline's name, a folder, or a registered NAME[@ALIAS]; `search:` before it
    lets an iPad search beyond its own proposals (rl/search.py).
    """
    if name.startswith(SEARCH):
        return _searching(driver_of(name.removeprefix(SEARCH), features), name)
    if name in FLOORS:
        return floor(name)
    if (Path(name) / "config.json").is_file():
        return load_folder(Path(name), features=features)
    for plug_in in entry_points(group=PLUG_IN):
        driver = plug_in.load()(name)
        if driver is not None:
            return driver
    raise SetupError(
        f"planner {name!r} is neither a baseline ({', '.join(FLOORS)}), nor a folder with "
        "config.json, nor a registered model; see latentvla info for what is registered"
    )


def _searching(driver: Driver, name: str) -> Driver:
    """Raises SetupError for who has no scorer to search with."""
    from latentvla_core.rl.search import Searching

    if not isinstance(driver, PlannerDriver):
        raise SetupError(f"{driver.name} has no scorer to search with; name an iPad: {SEARCH}DIR")
    return replace(driver, name=name, planner=Searching(driver.planner))
