"""What it costs to know whether pictures changed: `python -m benchmarks.identity DIR --pictures N`.

Writes N files of 2 kB into log folders of 640 below DIR (or finds them), looks at all of them twice
with the notes that spare reading, and a third time after one was replaced by another of the same
size. Real pictures are larger: of those above 64 kB both ends are read, 32 kB in all.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from latentvla_core.lake import identity
from latentvla_core.lake.identity import Looks

PER_LOG = 640
SIZE_B = 2048


def write(root: Path, count: int) -> list[Path]:
    """The log folders, filled."""
    noise, folders = random.Random(0).randbytes(SIZE_B + 4096), []
    for log in range(-(-count // PER_LOG)):
        folder = root / f"{log:06d}" / "CAM_F0"
        folders.append(folder.parent)
        if folder.is_dir():
            continue
        folder.mkdir(parents=True)
        for i in range(min(PER_LOG, count - log * PER_LOG)):
            (folder / f"{i:05d}.jpg").write_bytes(noise[i : i + SIZE_B])
    return folders


def look(folders: Sequence[Path], notes: Path) -> tuple[float, float, int, int]:
    """CPU seconds, wall seconds, files found and files read."""
    looks, cpu, wall = Looks(notes), time.process_time(), time.perf_counter()
    found = sum(len(looks.files(folder)) for folder in folders)
    return time.process_time() - cpu, time.perf_counter() - wall, found, looks.read


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=100_000)
    options = parser.parse_args(arguments)
    folders = write(options.out / "blobs", options.pictures)
    notes = options.out / "notes"
    shutil.rmtree(notes, ignore_errors=True)
    time.sleep(max(0.0, identity.SETTLED_NS * 1e-9 + 0.1))  # younger files are read again
    for name in ("first look", "second look", "after one was replaced"):
        if name.startswith("after"):
            changed = folders[0] / "CAM_F0" / "00000.jpg"
            changed.write_bytes(changed.read_bytes()[::-1])
        cpu, wall, found, read = look(folders, notes)
        each = 1e6 * cpu / max(found, 1)
        print(
            f"{name}: {found:,} pictures, {read:,} read, {cpu:.1f} CPU-s ({each:.1f} us each), "
            f"{wall:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
