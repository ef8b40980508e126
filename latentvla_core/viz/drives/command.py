"""`latentvla drive`: what the terminal asks and is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentvla_core.errors import SetupError

EPILOG = "Example: latentvla drive --planner ipad_student@champion --scenes 18 --seed 0 --out DIR"


def drive(
    planner: Annotated[
        list[str],
        typer.Option(
            help="Baseline, folder of a saved planner, or registered NAME@ALIAS; give it several "
            "times to compare them in the same scenes."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables and page; goes on where it was.")],
    scenes: Annotated[int, typer.Option(min=1, help="Scenes in all, equal per situation.")] = 18,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same scenes, same bytes.")] = 0,
    situation: Annotated[
        str, typer.Option("--set", help="One situation, usual (nine) or dangerous (three).")
    ] = "usual",
    traffic: Annotated[str, typer.Option(help="reactive, log, or both.")] = "both",
    seconds: Annotated[float, typer.Option(min=4.0, help="T; runs may last 1.5 T.")] = 20.0,
    features: Annotated[
        str, typer.Option(help="Folder of the student or VLM of a fused planner's folder.")
    ] = "",
    floors: Annotated[bool, typer.Option(help="Drive the floors too.")] = True,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    videos: Annotated[
        int, typer.Option(min=0, max=6, help="Worst runs as mp4 (extra `video`).")
    ] = 0,
) -> None:
    """A planner drives in the world and is scored as nuPlan, CARLA and AlpaSim would, with floors."""
    from latentvla_core.closed_loop import report
    from latentvla_core.closed_loop.drive import DriveConfig, drive_set
    from latentvla_core.closed_loop.drivers.baselines import FLOORS
    from latentvla_core.viz.drives.video import require_encoder
    from latentvla_core.viz.drives.write import write_drive_page
    from latentvla_core.viz.progress import counting

    names = _situations(situation)
    if videos:
        require_encoder()  # before hours of driving, not after
    if traffic not in ("reactive", "log", "both"):
        raise SetupError(f"--traffic is {traffic!r}; choose reactive, log or both")
    kinds = ("reactive", "log") if traffic == "both" else (traffic,)
    drivers = tuple(dict.fromkeys([*planner, *(FLOORS if floors else ())]))
    config = DriveConfig(drivers=drivers, traffic=kinds, seconds=seconds, features=features)  # type: ignore[arg-type]
    with counting("scenes") as progress:
        found, rows = drive_set(
            names, -(-scenes // len(names)), seed, config, out, workers=workers, progress=progress
        )
    path = write_drive_page(found, rows, len(set(planner)), out, videos)
    last = report.whole(rows["closed_loop_scores"])
    typer.echo(report.markdown(report.table(last)))
    typer.echo(
        f"{len(found.scenes)} scenes of {sum(found.tried.values())} candidates "
        f"({found.rejection_rate:.0%} refused)\nopen {path}"
    )


def _situations(name: str) -> tuple[str, ...]:
    from latentvla_core.closed_loop.scenes import situations

    sets = {"usual": situations.USUAL, "dangerous": situations.DANGEROUS}
    return sets.get(name) or (situations.situation(name).name,)
