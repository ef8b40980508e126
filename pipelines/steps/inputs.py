"""The files behind a piece of work, beside tables: one key per kind, which changes when a file that
the work reads was replaced, removed or put back, and with nothing else. Places and times are no
part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from latentvla_core.data.files import is_remote, join, remote_keys
from latentvla_core.lake.identity import Looks
from latentvla_core.types import FRONT_CAMERA
from pipelines.settings import Settings
from pipelines.steps.lineage import UNPARTITIONED, digest, partition_key, place_of

FRONT, CAMERAS, SENSORS = "front", "cameras", "sensors"
LOGS, MAPS, FILTER, WEIGHTS = "logs", "maps", "filter", "weights"
_BELOW: dict[str, Callable[[str], bool]] = {
    FRONT: lambda name: name.startswith(f"{FRONT_CAMERA}/"),
    CAMERAS: lambda name: name.startswith("CAM_"),
    SENSORS: lambda name: True,
}
"""Of the files below <sensor root>/<log name>/, which a kind means."""


class InputFiles:
    """Keys by kind and partition.

    logs: log files, own drives whole. front, cameras, sensors: pictures of the front camera, of all
    cameras, all sensor files of the shard's logs. maps: the split's. filter: which scenes of the
    split count. weights: a local folder, whose path stands for the partition.
    """

    def __init__(
        self, settings: Settings, looks: Looks, listing: Callable[[], list[dict[str, Any]]]
    ) -> None:
        self.settings, self.looks, self._list = settings, looks, listing
        self._known: dict[tuple[str, str], str] = {}
        self._sensors: dict[str, Mapping[str, str]] = {}

    def key(self, kind: str, partition: str) -> str:
        """The key of one kind of files behind one partition; of all logs for the empty one."""
        if (kind, partition) not in self._known:
            self._known[kind, partition] = self._key(kind, partition)
        return self._known[kind, partition]

    def _key(self, kind: str, partition: str) -> str:
        if kind == WEIGHTS:
            path = Path(partition)
            return self.looks.file(path) if path.is_file() else self.looks.tree(path)
        if kind == LOGS:
            rows = [(r["log_name"], r["content_key"]) for r in self._logs(partition)]
            # `logs` tells the shard of each
            return digest(rows) if partition else digest(rows, self.settings.shards)
        if kind in _BELOW:
            return digest(
                [(r["log_name"], self._sensor_key(r, kind)) for r in self._logs(partition)]
            )
        split = place_of(partition)["split"]
        return self._map_key(split) if kind == MAPS else self._filter_key(split)

    def _logs(self, partition: str) -> list[dict[str, Any]]:
        return self._by_partition.get(partition, []) if partition else self._list()

    @cached_property
    def _by_partition(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self._list():
            found.setdefault(partition_key(row["split"], row["shard"]), []).append(row)
        return found

    def _sensor_key(self, row: dict[str, Any], kind: str) -> str:
        """Own drives have their pictures in the log's own key."""
        if row["format"] == "frames_poses":
            return row["content_key"]
        name = row["log_name"]
        if name not in self._sensors:
            self._sensors[name] = self._below(join(row["sensor_root"], name))
        wanted = _BELOW[kind]
        return digest(sorted(item for item in self._sensors[name].items() if wanted(item[0])))

    def _below(self, folder: str) -> Mapping[str, str]:
        """Relative name → key of the files of a folder or of the objects below a prefix."""
        return remote_keys(folder) if is_remote(folder) else self.looks.files(Path(folder))

    def _map_key(self, split: str) -> str:
        root = self.settings.source(split).maps
        return self.looks.tree(Path(root), lambda name: name.endswith(".gpkg")) if root else ""

    def _filter_key(self, split: str) -> str:
        """A file by its content, the devkit's own filters by their names, fields by their values."""
        rule = self.settings.source(split).filter
        if isinstance(rule, str) and Path(rule).is_file():
            return self.looks.file(Path(rule))
        return digest(rule if isinstance(rule, str) else dict(rule))


__all__ = ["UNPARTITIONED", "InputFiles"]
