"""`python3 pipelines/services/secrets.py`: write `.env` with passwords that nobody knows, once.

Needs nothing but Python, because it runs before anything is installed. Its name hides Python's own
module `secrets` from it, hence the system's random numbers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

GENERATED = ("POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def write_env(folder: Path) -> bool:
    """Make `.env` from `.env.example`, readable by its owner alone; False where there is one."""
    target = folder / ".env"
    if target.exists():
        return False
    lines = []
    for line in (folder / ".env.example").read_text().splitlines():
        name, is_set, _ = line.partition("=")
        lines.append(f"{name}={os.urandom(20).hex()}" if is_set and name in GENERATED else line)
    target.touch(mode=0o600)
    target.write_text("\n".join(lines) + "\n")
    return True


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    made = write_env(root)
    sys.stdout.write(f"{root / '.env'}: {'written' if made else 'there already, left alone'}\n")
