"""Where a message meets a driver: pictures keep the bytes they came in, so that a planner sees what
it sees when it reads the file itself.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

from latentvla_core.closed_loop.driver import Driver, checked_plan
from latentvla_core.closed_loop.drivers.planners import PlannerDriver, record_of
from latentvla_core.doors.moments import NPY, Moment, decoded, moment_of
from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import Array, SceneRecord


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
    came as an array is stored without loss.

    Args:
        prefix: of the pictures' names: records that are planned together need names that differ.
    """
    paths = {}
    for name, data in moment.pictures.items():
        kind = "png" if data.startswith(NPY) else "jpg"
        paths[name] = f"{prefix}{name}.{kind}"
        if data.startswith(NPY):
            from PIL import Image

            Image.fromarray(decoded(data, name)).save(folder / paths[name], compress_level=1)
        else:
            (folder / paths[name]).write_bytes(data)
    return record_of(moment.seen, paths, folder)
