"""Damaged and mutated files against every reader: hangs, crashes, untyped errors, silent acceptances.

python -m benchmarks.fuzz --world FOLDER [--count 6000] [--seed 0] [--kinds log,map]

FOLDER is what `latentvla world write` made. Each mutation is read in a forked child with 2 s of
processor time and 500 MB of memory beside what the parent holds. A reading counts as
* typed: a LatentVLAError, which names the file;
* read: no error, and the result keeps the reader's promise (finite numbers, the shape asked for);
* silent: no error, and the promise is broken;
* untyped, hang, crash: any other exception, out of time, ended by a signal.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.fuzz_kinds import Kind, kinds
from latentvla_core.errors import LatentVLAError

TIME_S, WALL_S, MEMORY_B = 2.0, 20.0, 500_000_000
OUTCOMES = ("read", "typed", "untyped", "silent", "hang", "crash")
TOKENS = (b"nan", b"inf", b"-1", b"1e999", b"9" * 4400, b"null", b"\x00", b"[", b"{", b"&a *a", b"~",
          b"2020-13-45", b"../", b"\xff\xfe", b"!!python/object:os.system")  # fmt: skip


def mutate(honest: bytes, rng: np.random.Generator) -> bytes:
    """One to eight changes: bits, bytes, cuts, repeats, and words that parsers fear; half of the
    mutations change bits and bytes where they stand, which leaves most formats readable.
    """
    data = bytearray(honest)
    kinds_of_change = 2 if rng.random() < 0.5 else 6
    for _ in range(int(rng.integers(1, 9))):
        at, end = sorted(int(i) for i in rng.integers(0, len(data) + 1, 2))
        end = min(end, at + int(rng.integers(1, 64)))
        match int(rng.integers(0, kinds_of_change)):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(0, 8))
            case 1:
                data[at:end] = rng.integers(0, 256, end - at, dtype=np.uint8).tobytes()
            case 2 if rng.random() < 0.2:
                del data[at:]
            case 3:
                data[at:at] = data[at:end] * int(rng.integers(1, 4))
            case 4:
                data[at:end] = TOKENS[int(rng.integers(0, len(TOKENS)))]
            case _:
                del data[at:end]
    return bytes(data)


def run_one(kind: Kind, folder: Path, data: bytes) -> tuple[str, str]:
    """(outcome, what was raised) of one mutation, read in a child."""
    (folder / kind.place).parent.mkdir(parents=True, exist_ok=True)
    (folder / kind.place).write_bytes(data)
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        _guard()
        outcome, said = _attempt(kind, folder)
        os.write(into, f"{outcome}\n{said}"[:2000].encode("utf-8", "replace"))
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        told = pipe.read().decode("utf-8", "replace")
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        ended = os.WTERMSIG(status)
        timers = (signal.SIGALRM, signal.SIGPROF)
        return ("hang" if ended in timers else "crash"), f"signal {ended}"
    outcome, _, said = told.partition("\n")
    return outcome or "crash", said


def _guard() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_B, held + MEMORY_B))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(name, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, TIME_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)


def _attempt(kind: Kind, folder: Path) -> tuple[str, str]:
    try:
        return ("read" if kind.read(folder) else "silent"), ""
    except LatentVLAError as error:
        text = str(error)
        return ("typed", text) if len(text) < 20_000 else ("untyped", f"{len(text)} characters")
    except BaseException as error:
        return "untyped", f"{type(error).__name__}: {str(error)[:300]}"


def main(arguments: list[str]) -> int:
    """Prints a row per kind and the first of each bad outcome; the exit code is 1 for any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="")
    chosen = parser.parse_args(arguments)
    files = [k for k in kinds(chosen.world) if k.name in (chosen.kinds or k.name).split(",")]
    bad: dict[str, str] = {}
    total: Counter[str] = Counter()
    print("kind " + " ".join(OUTCOMES), flush=True)
    for kind in files:
        found: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as folder:
            unchanged = run_one(kind, Path(folder), kind.honest)
            (Path(folder) / kind.place).write_bytes(kind.honest)
            kind.read(Path(folder))  # here too: children need not import what it needs
        if unchanged[0] != "read":
            raise SystemExit(f"the honest {kind.name} is not read: {unchanged}")
        for i in range(chosen.count // len(files)):
            rng = np.random.default_rng([chosen.seed, i])
            with tempfile.TemporaryDirectory() as folder:
                outcome, said = run_one(kind, Path(folder), mutate(kind.honest, rng))
            found[outcome] += 1
            if outcome not in ("read", "typed"):
                bad.setdefault(f"{kind.name} {outcome} {said[:120]}", f"mutation {i}")
        print(kind.name, *(found[name] for name in OUTCOMES), flush=True)
        total += found
    print("all", *(total[name] for name in OUTCOMES), f"= {sum(total.values())} mutations")
    for what, where in bad.items():
        print(f"  {what} ({where})")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
