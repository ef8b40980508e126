"""How the planners of `benchmarks.rl` drive: `python -m benchmarks.rl_drives --out DIR`.

DIR is the folder that `python -m benchmarks.rl --out DIR` filled. Every planner in DIR/planners
drives the same scenes in reactive traffic, beside the floors; towns are none of the training's.
Every run is cut at 20 s. Differences from imitation of the same seed are paired by scene, intervals
draw whole scenes. A scene counts once all have driven it; a second call goes on where the first was
killed. Figures are printed, and stand in DIR/drives.csv.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.correlation.checkpoints import Checkpoint
from benchmarks.correlation.runs import drive_scene, stored_scores
from latentvla_core.closed_loop import report
from latentvla_core.closed_loop.drivers.baselines import FLOORS
from latentvla_core.closed_loop.scenes.sets import SceneSet, Verdict, freeze
from latentvla_core.closed_loop.scenes.situations import USUAL
from latentvla_core.statistics import Interval, paired_difference

START = "imitation"
SHOWN = ("cls", "ds", "alpasim", "route_completion", "no_at_fault_collisions", "drivable_area")
JUDGED = ("cls", "ds")
Row = dict[str, Any]


def planners_in(folder: Path, arms: Sequence[str] = ()) -> list[Checkpoint]:
    """ARM-SEED folders as checkpoints, imitation first; `arms`: only these beside it."""
    found = [p for p in sorted(folder.iterdir()) if (p / "config.json").is_file()]
    made = [
        Checkpoint(
            name=p.name, kind="imitation" if arm_of(p.name) == START else "rl", host="",
            seed=int(p.name.rpartition("-")[2]), folder=str(p),
        )
        for p in found
        if not arms or arm_of(p.name) in (START, *arms)
    ]  # fmt: skip
    return sorted(made, key=lambda c: (c.kind, c.name))


def arm_of(name: str) -> str:
    """`one_plan-2` → `one_plan`."""
    return name.rpartition("-")[0]


def in_turns(scenes: Sequence[Verdict]) -> list[Verdict]:
    """A scene of each situation, then the next of each: a set that is cut short stays balanced."""
    seen: dict[str, int] = {}
    turns = []
    for verdict in scenes:
        seen[verdict.spec.situation] = turn = seen.get(verdict.spec.situation, 0) + 1
        turns.append((turn, verdict))
    return [verdict for _, verdict in sorted(turns, key=lambda t: t[0])]


def scenes_of(out: Path, per_situation: int) -> SceneSet:
    """The set, frozen once."""
    path = out / f"scenes-{per_situation}.json"
    if not path.exists():
        freeze(USUAL, per_situation, workers=1).save(path)
    return SceneSet.load(path)


def common(rows: Sequence[Row], drivers: Sequence[str]) -> list[Row]:
    """Rows of the scenes that every driver has driven."""
    seen: dict[str, set[str]] = {}
    for row in rows:
        seen.setdefault(row["scene"], set()).add(row["driver"])
    return [r for r in rows if seen[r["scene"]] >= set(drivers) and r["driver"] in drivers]


def against_start(rows: Sequence[Row], arm: str, seeds: Sequence[int], name: str) -> Interval:
    """Mean of the arm minus its start, the same seed and scene; scenes are drawn whole."""
    by = {(r["driver"], r["scene"]): float(r[name]) for r in rows}
    scenes = sorted({r["scene"] for r in rows})
    pairs = [
        (by[f"{arm}-{seed}", scene], by[f"{START}-{seed}", scene], scene)
        for seed in seeds
        for scene in scenes
    ]
    one, other, groups = zip(*pairs, strict=True)
    return paired_difference(np.array(one), np.array(other), list(groups))


def seeds_of(names: Sequence[str], arm: str) -> list[int]:
    return sorted(int(n.rpartition("-")[2]) for n in names if arm_of(n) == arm)


def differences(rows: Sequence[Row], names: Sequence[str]) -> Iterator[Row]:
    """A row per arm and seed, and per arm over all seeds, at every length of the run."""
    arms = [a for a in dict.fromkeys(map(arm_of, names)) if a and a != START]
    for arm in arms:
        seeds = seeds_of(names, arm)
        for part in (*([s] for s in seeds), seeds):
            for seconds in sorted({r["prefix_s"] for r in rows}):
                at = [r for r in rows if r["prefix_s"] == seconds]
                found = {name: against_start(at, arm, part, name) for name in JUDGED}
                yield {
                    "arm": arm, "seeds": " ".join(map(str, part)), "prefix_s": seconds,
                    **{f"{n}_{k}": getattr(v, k) for n, v in found.items()
                       for k in ("mean", "low", "high")},
                }  # fmt: skip


def told(rows: Sequence[Row], names: Sequence[str], out: Path) -> None:
    """The table with its floors, what changed since imitation, and the file of both."""
    if not rows:
        print("no scene has been driven by all yet")
        return
    print(f"{len({r['scene'] for r in rows})} scenes")
    print(report.markdown(report.table(report.whole(rows), SHOWN), SHOWN))
    found = list(differences(rows, names))
    longest = max(r["prefix_s"] for r in rows)
    for row in found:
        if row["prefix_s"] == longest or row["seeds"].count(" "):
            print(
                f"{row['arm']} seeds {row['seeds']}, {row['prefix_s']:g} s: "
                + ", ".join(
                    f"{n} {row[f'{n}_mean']:+.2f} [{row[f'{n}_low']:+.2f}, {row[f'{n}_high']:+.2f}]"
                    for n in JUDGED
                )
            )
    with (out / "drives.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(found[0]) if found else ["arm"])
        table.writeheader()
        table.writerows(found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=5, help="of each of nine situations")
    parser.add_argument("--arms", nargs="+", default=[], help="beside imitation; all")
    parser.add_argument("--report", action="store_true", help="drive nothing, print what is there")
    options = parser.parse_args(arguments)
    planners = planners_in(options.out / "planners", options.arms)
    everybody = [*(Checkpoint(name=n, kind="floor", host="") for n in FLOORS), *planners]
    for number, verdict in enumerate(in_turns(scenes_of(options.out, options.scenes).scenes)):
        if not options.report:
            spec = verdict.spec.to_row()
            new = drive_scene(spec, everybody, options.out / "planners", options.out)
            print(f"scene {number + 1}, {verdict.spec.token}: {new} runs", flush=True)
    names = [c.name for c in everybody]
    rows = common(stored_scores(options.out, everybody), names)
    told(rows, [c.name for c in planners], options.out)


if __name__ == "__main__":
    main()
