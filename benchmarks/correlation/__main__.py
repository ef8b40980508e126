"""Does the open-loop score of a planner say how it drives?

    python -m benchmarks.correlation make --out DIR     # a world and its checkpoints
    python -m benchmarks.correlation drive --out DIR    # held-out logs, then scenes of other towns
    python -m benchmarks.correlation report --rows DIR/rows --doc PAGE --image FILE

`make` and `drive` go on where they were. `drive` leaves DIR/rows: one row per checkpoint and
held-out scene, and one per checkpoint, driven scene and length; whole runs, step by step, lie below
DIR/runs. `report` derives every figure from the rows in seconds, and replaces what stands in PAGE
between the lines <!-- figures --> and <!-- end -->. Planners made elsewhere are judged too:
--also KIND:NAME=FOLDER[,FEATURES].
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.correlation import page, rows
from benchmarks.correlation.checkpoints import Checkpoint, Study, given, make_all
from benchmarks.correlation.runs import drive_scene, open_loop
from benchmarks.rl import WORLD, read
from latentvla_core.closed_loop.scenes.sets import SceneSet, Verdict, freeze
from latentvla_core.closed_loop.scenes.situations import USUAL
from latentvla_core.world.write import write_world


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("make", "drive"):
        one = commands.add_parser(name)
        one.add_argument("--out", type=Path, required=True)
        one.add_argument("--seeds", type=int, default=Study().seeds)
        one.add_argument("--lengths", type=int, nargs="+", default=Study().lengths)
        one.add_argument("--no-rl", action="store_true")
        one.add_argument("--also", nargs="*", default=[], metavar="KIND:NAME=FOLDER")
    one.add_argument("--scenes", type=int, default=5, help="of each situation")
    one.add_argument(
        "--share",
        type=int,
        nargs=2,
        default=(0, 1),
        metavar=("I", "N"),
        help="drive only every Nth scene, from the Ith on: N processes side by side",
    )
    told = commands.add_parser("report")
    told.add_argument("--rows", type=Path, required=True)
    told.add_argument("--doc", type=Path)
    told.add_argument("--image", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "report":
        print(page.write(rows.read(options.rows), options.doc, options.image))
        return
    study = Study(lengths=tuple(options.lengths), seeds=options.seeds)
    study = replace(study, rl=()) if options.no_rl else study
    checkpoints = [*study.checkpoints(), *map(given, options.also)]
    root = write_world(options.out / "world", WORLD).root
    make_all(checkpoints, root, options.out / "planners")
    if options.command == "drive":
        drive_all(checkpoints, root, options)


def drive_all(checkpoints: Sequence[Checkpoint], root: Path, options: argparse.Namespace) -> None:
    """Open loop of all, then their drives, then the rows."""
    first, step = options.share
    if first == 0:
        judge_open(checkpoints, root, options.out)
    found = in_turn(scenes_of(options.out, options.scenes).scenes)
    for number, verdict in enumerate(found):
        if number % step == first:
            new = drive_scene(
                verdict.spec.to_row(), checkpoints, options.out / "planners", options.out
            )
            print(f"scene {number + 1} of {len(found)}: {new} runs", flush=True)
    print(f"rows: {rows.collect(options.out, checkpoints)}")


def judge_open(checkpoints: Sequence[Checkpoint], root: Path, out: Path) -> None:
    """PDMS and EPDMS of every checkpoint that has none yet."""
    missing = [c for c in checkpoints if not rows.open_path(out, c.name).exists()]
    if not missing:
        return
    held_out = read(root, "test")
    for checkpoint in missing:
        folder = (
            Path(checkpoint.folder) if checkpoint.folder else out / "planners" / checkpoint.name
        )
        found = open_loop(checkpoint, folder, held_out)
        rows.keep_open(out, checkpoint.name, found)
        print(f"{checkpoint.name}: {rows.mean(found, 'pdms'):.3f} PDMS", flush=True)


def in_turn(scenes: Sequence[Verdict]) -> list[Verdict]:
    """The first of every situation, then the second: a study that is cut short is balanced."""
    seen: dict[str, int] = {}
    place = []
    for verdict in scenes:
        name = verdict.spec.situation
        place.append(seen.get(name, 0))
        seen[name] = place[-1] + 1
    return [v for _, v in sorted(zip(place, scenes, strict=True), key=lambda pair: pair[0])]


def scenes_of(out: Path, per_situation: int) -> SceneSet:
    """The set, frozen once."""
    path = out / f"scenes-{per_situation}.json"
    if not path.exists():
        freeze(USUAL, per_situation, workers=1).save(path)
    return SceneSet.load(path)


if __name__ == "__main__":
    main()
