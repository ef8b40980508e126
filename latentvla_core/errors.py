"""Errors a user can act on. Each message says: the value, the rule it broke, the remedy."""

from __future__ import annotations

from collections.abc import Sequence


class LatentVLAError(Exception):
    """Base of every error this project raises on purpose."""


class SetupError(LatentVLAError):
    """The environment, a path or a setting is wrong; nothing was read."""


class DataError(LatentVLAError):
    """Data on disk breaks its format. Names the file, the frame (token or index) and the field
    where known.
    """

    def __init__(self, message: str, *, file: str = "", frame: str = "", field: str = "") -> None:
        where = ", ".join(
            part
            for part in (file, f"frame {frame}" if frame else "", f"field {field}" if field else "")
            if part
        )
        super().__init__(f"{where}: {message}" if where else message)
        self.file, self.frame, self.field, self.reason = file, frame, field, message


class DataFaults(LatentVLAError):
    """All faults of a batch at once, so that one run shows everything there is to mend."""

    def __init__(self, faults: Sequence[DataError]) -> None:
        self.faults = tuple(faults)
        lines = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"{len(self.faults)} fault(s):\n{lines}")
