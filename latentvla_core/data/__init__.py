"""Driving logs of any format become `Frame`s here. A new format is one file that ends in
`FORMAT = DataFormat(…)`, and one line in `MODULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import Frame

MODULES: dict[str, str] = {
    "navsim": "latentvla_core.data.navsim",
    "frames_poses": "latentvla_core.data.frames_poses",
}
"""Format → module whose `FORMAT` it is."""
Slots = list[Frame | None]
"""Frames of one log in file order, None where one is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFormat:
    """How logs of one format are found and read."""

    what: str
    """What a folder without a log lacks: the end of "the folder holds no …"."""
    find: Callable[[Path], list[tuple[str, Path]]]
    """Folder → (log name, path) of every log it holds."""
    read: Callable[[Path, str], tuple[list[Slots], list[DataError]]]
    """(path, log name) → its logs, and why frames are refused. Several logs where one recording
    is faster than 2 Hz. Raises DataError or DataFaults for a log that cannot be read at all.
    """
    file: Callable[[Path], Path]
    """Path of a log → the file whose size and ends identify it."""
    sensors: Callable[[Path], Path]
    """Path of a log → folder that its picture paths are relative to, unless the source says."""
    name_inside: bool = False
    """True: the file itself says which log it is, so a copy under another name is noticed."""


def format_of(name: str) -> DataFormat:
    """The format of that name. Raises SetupError that lists the known ones."""
    if name not in MODULES:
        raise SetupError(f"format is {name!r}; use {' or '.join(MODULES)}")
    return import_module(MODULES[name]).FORMAT
