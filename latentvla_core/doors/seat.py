"""Where a message meets a driver: pictures keep the bytes they came in, so that a planner sees what
it sees when it reads the file itself.
"""

from __future__ import annotations

import io
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.closed_loop.driver import Driver, checked_plan
from latentvla_core.closed_loop.drivers.planners import JPEG, PlannerDriver, record_of
from latentvla_core.doors.moments import NPY, Moment, decoded, moment_of
from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import Array, SceneRecord

SAME_LEVELS = 0.1
"""A picture written again that comes back nearer than this, in grey levels, had those tables."""


class Seat:
    """A driver that answers messages, one at a time.

    >>> Seat(driver_of("ipad@champion")).drive({"velocity_mps": [5, 0], "pictures": {...}})
    """

    def __init__(self, driver: Driver) -> None:
        if driver.is_privileged:
            raise SetupError(
                f"{driver.name} needs what no message holds (map, every actor); serve another one"
            )
        self.driver = driver
        self._one = threading.Lock()

    def start(self, seed: int = 0) -> None:
        """A new drive begins."""
        with self._one:
            self.driver.start(seed)

    def drive(self, message: Any) -> Array:
        """(8, 3) poses x_m, y_m, yaw_rad at 0.5 … 4.0 s in the ego frame of now.

        Raises DataError with the reason where the message or its pictures cannot be used: there is
        no plan from black pictures and none of NaN.
        """
        moment = moment_of(message)
        if missing := [name for name in self.driver.cameras if name not in moment.pictures]:
            raise DataError(
                f"{self.driver.name} looks at {', '.join(self.driver.cameras)}; {missing[0]} is "
                f"missing ({len(missing)} in all)",
                field="pictures",
            )
        with self._one:
            return checked_plan(self._drive(moment), self.driver.name)

    def _drive(self, moment: Moment) -> Array:
        if not isinstance(self.driver, PlannerDriver):
            return self.driver.drive(moment.with_pictures())
        with tempfile.TemporaryDirectory(prefix="latentvla-seat-") as folder:
            try:
                return self.driver.plan_record(record_from(moment, Path(folder)))
            except DataError as error:
                # Who asked knows nothing of the folder that its pictures lay in.
                raise DataError(str(error).replace(f"{folder}/", "")) from error


def record_from(moment: Moment, folder: Path, prefix: str = "") -> SceneRecord:
    """The row that planners read; the pictures lie in the folder, in the bytes they came in. What
    came as an array is written as the JPEG it was before (`photographed`).

    Args:
        prefix: of the pictures' names: records that are planned together need names that differ.
    """
    paths = {}
    for name, data in moment.pictures.items():
        paths[name] = f"{prefix}{name}.jpg"
        own = data if not data.startswith(NPY) else photographed(decoded(data, name))
        (folder / paths[name]).write_bytes(own)
    return record_of(moment.seen, paths, folder)


def photographed(picture: Array) -> bytes:
    """JPEG of an (H, W, 3) uint8 picture that was decoded from one.

    Planners are trained on pictures that were scaled while they were decoded, and an array can only
    be scaled afterwards: 0.4 to 1.1 grey levels away. The blocks of a JPEG come back when it is
    written again with the tables it had: those of the embedded world are tried, and where they do
    not give the picture back, the finest ones (0.2 grey levels away on pictures of real cameras).
    """
    from latentvla_core.data.cameras import decode_image

    own = _jpeg(picture, JPEG["quality"])
    gap = np.abs(decode_image(own).astype(np.int16) - picture).mean()
    return own if gap < SAME_LEVELS else _jpeg(picture, 100)


def _jpeg(picture: Array, quality: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=quality, subsampling=JPEG["subsampling"])
    return out.getvalue()
