"""`make bench`: every benchmark of this folder that needs nothing but a checkout, one after the
other; or those named.

python -m benchmarks                 # all of them
python -m benchmarks score ingest    # two

The others take hours, or need data or a folder of yours:
`python -m benchmarks.latent_quality --help` says what.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STANDALONE = (
    "gpu",
    "ingest",
    "label_table",
    "labelling",
    "render",
    "score",
    "site",
    "student_vs_teacher",
)


def main(names: list[str]) -> int:
    """Run the benchmarks; the exit code is the number that failed."""
    unknown = [name for name in names if name not in STANDALONE]
    if unknown:
        told = f"there are {', '.join(STANDALONE)}; others take arguments, see python -m benchmarks.NAME --help"
        print(f"error: {', '.join(unknown)} cannot be run from here; {told}", file=sys.stderr)
        return 2
    folder, failed = Path(__file__).resolve().parent, 0
    for name in names or STANDALONE:
        print(f"\n== {name}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"], cwd=folder.parent, check=False
        )
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
