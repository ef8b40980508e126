"""What the cameras saw while somebody drove, drawn again from the stored steps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentvla_core.closed_loop.steps import run_of
from latentvla_core.viz.site.files import figures
from latentvla_core.viz.site.pictures import QUALITY, picture_path

CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0")
PICTURE_WH = (384, 216)
EVERY = 5
"""Steps of 0.1 s between two pictures."""


def folder_name(number: int) -> str:
    """What a run is called where pictures of logs have the log's name."""
    return f"run-{number}"


def write_pictures(
    site: Path, number: int, run: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Draw every half second of a run; returns the steps that have pictures.

    The town and everybody in it are those of the run; colours of cars are not stored, so they are
    grey.
    """
    from PIL import Image

    from latentvla_core.closed_loop.drivers.eyes import renderer_of
    from latentvla_core.closed_loop.scenes.sets import spec_of
    from latentvla_core.world.state import Snapshot

    driven = run_of(run, steps)
    renderer = renderer_of(spec_of(dict(driven.spec)), PICTURE_WH)
    drawn = list(range(0, driven.steps + 1, EVERY))
    for step in drawn:
        moment = driven.moments[step]
        seen = Snapshot(step * 0.1, driven.states[step, :3], moment.actors, dict(moment.lights))
        for camera in CAMERAS:
            buffer = io.BytesIO()
            Image.fromarray(renderer.render(seen, camera)).save(buffer, "JPEG", quality=QUALITY)
            path = site / picture_path(folder_name(number), camera, step)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(buffer.getvalue())
    return drawn


def calibrations() -> dict[str, Any]:
    """Calibration by camera, as scenes tell it."""
    from latentvla_core.world.sensors.calibration import camera_rig

    return {
        name: {
            "size_px": list(PICTURE_WH),
            "intrinsics_px": figures(camera.intrinsics_px, 2),
            "rotation": figures(camera.rotation, 5),
            "position_m": figures(camera.translation_m, 3),
        }
        for name, camera in camera_rig(PICTURE_WH).items()
        if name in CAMERAS
    }
