"""Which files these are: relative names, sizes and contents, in one key that changes when any of
them does, and is the same wherever the folder lies.

Contents are read once. A note beside the lake says what a file held when it was read and what its
size, times and inode were; as long as those are the same the file is not read again. Times save a
look and never decide: a file that was only touched is read and has its old key, and one that
changed less than two seconds before it was read is read again next time, since its times could not
tell.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SENSOR_WHOLE_B = 64 << 10
"""Pictures and point clouds above this are known by their ends: there may be a million."""
SENSORS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".pcd",
    ".bin",
    ".npy",
)
WHOLE_B = 256 << 20
"""Other files above this, which weights are, are known by their ends."""
END_B = 64 << 10
SMALL_END_B = 8 << 10
SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system
THREADS = 8
Note = list[Any]
"""[size, mtime_ns, ctime_ns, inode, key, when it was read (ns)]"""


class Looks:
    """Keys of files and folders, with the notes that spare reading them again.

    Args:
        folder: where the notes lie; None: nothing is kept.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.read = 0
        """Files read so far: 0 in a second look at what nobody changed."""

    def file(self, path: Path) -> str:
        """Key of the content of one file; "" if there is none."""
        found = self._keys(path.parent, [path.name] if path.is_file() else [], path.name)
        return found.get(path.name, "")

    def tree(self, root: Path, wanted: Callable[[str], bool] = lambda name: True) -> str:
        """Key of all files below a folder, links followed: relative name, size and content of each.
        Files whose names begin with a dot do not count. "" if there are none.

        Args:
            wanted: relative name (with /) → whether the file counts.
        """
        keys = {name: key for name, key in self.files(root).items() if wanted(name)}
        return digest_of(sorted(keys.items())) if keys else ""

    def files(self, root: Path) -> dict[str, str]:
        """Relative name → key of every file below a folder."""
        return self._keys(root, names_below(root), "")

    def _keys(self, root: Path, names: Iterable[str], one: str) -> dict[str, str]:
        notes, found = self._notes(root, one), {}
        new: dict[str, os.stat_result] = {}
        for name in names:
            try:
                stat = os.stat(os.path.join(root, name))
            except OSError:
                continue  # it vanished, or its link leads nowhere: it is not there
            note = notes.get(name)
            if note and is_settled(note) and note[:4] == _seen(stat):
                found[name] = note
            else:
                new[name] = stat
        if new:
            found |= self._look(root, new)
        if new or notes.keys() != found.keys():
            self._keep(root, one, found)
        return {name: f"{note[0]}-{note[4]}" for name, note in found.items()}

    def _look(self, root: Path, new: dict[str, os.stat_result]) -> dict[str, Note]:
        def look(name: str) -> tuple[str, Note | None]:
            now = time.time_ns()
            try:
                key = content_key(Path(root, name))
            except OSError:
                return name, None
            return name, [*_seen(new[name]), key, now]

        self.read += len(new)
        with ThreadPoolExecutor(THREADS) as pool:
            return {name: note for name, note in pool.map(look, new) if note}

    def _place(self, root: Path, one: str) -> Path | None:
        if self.folder is None:
            return None
        where = digest_of([str(root.absolute()), one])
        return self.folder / where[:2] / f"{where}.json"

    def _notes(self, root: Path, one: str) -> dict[str, Note]:
        place = self._place(root, one)
        try:
            return json.loads(place.read_text()) if place else {}
        except (OSError, ValueError):
            return {}  # none yet, or cut off: everything is read again

    def _keep(self, root: Path, one: str, notes: dict[str, Note]) -> None:
        place = self._place(root, one)
        if place is None:
            return
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            unfinished = place.with_suffix(f".{os.getpid()}")
            unfinished.write_text(json.dumps(notes))
            os.replace(unfinished, place)
        except OSError:
            return  # a home that cannot be written costs a second look, nothing else


def names_below(root: Path) -> Iterator[str]:
    """Relative names, with /, of the files below a folder, links followed, each real folder once."""
    seen: set[str] = set()
    todo = [""]
    while todo:
        folder = todo.pop()
        real = os.path.realpath(os.path.join(root, folder))
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(os.path.join(root, folder)))
        except OSError:
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                todo.append(name)
            elif entry.is_file():
                yield name


def content_key(path: Path) -> str:
    """Changes when the content does: all of it where that is cheap, else size and both ends."""
    whole_b = SENSOR_WHOLE_B if path.suffix.lower() in SENSORS else WHOLE_B
    size, hashed = path.stat().st_size, hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        if size <= whole_b:
            while block := file.read(1 << 20):
                hashed.update(block)
        else:
            end_b = min(END_B, max(SMALL_END_B, whole_b // 4))
            hashed.update(size.to_bytes(8, "little") + file.read(end_b))
            file.seek(size - end_b)
            hashed.update(file.read(end_b))
    return hashed.hexdigest()


def digest_of(value: Any) -> str:
    """16 hex digits of anything JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def is_settled(note: Note) -> bool:
    """Whether the file was read long enough after its last change that a later one must show."""
    return max(note[1], note[2]) + SETTLED_NS < note[5]


def _seen(stat: os.stat_result) -> Note:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
