"""`make bench`: every benchmark of this folder with its default settings, one after the other; or those named.

python -m benchmarks                 # all
python -m benchmarks score ingest    # two
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LONG = {
    "latent_quality",
    "latent_ablations",
    "latent_agents",
    "latent_gate",
    "latent_real",
}  # many minutes to hours, or data of your own: only when named


def main(names: list[str]) -> int:
    """Run the benchmarks; the exit code is the number that failed."""
    folder = Path(__file__).resolve().parent
    known = sorted(path.stem for path in folder.glob("[a-z]*.py"))
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: {unknown} are no benchmarks; there are {', '.join(known)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names or [name for name in known if name not in LONG]:
        print(f"\n== {name}", flush=True)
        failed += (
            subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=folder.parent, check=False).returncode != 0
        )
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
