"""`latentvla view`: what the terminal asks and is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = 'Example: latentvla view --where "command = 0"   (left turns only)'


def view(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the site; default: site in LATENTVLA_HOME.")
    ] = None,
    log: Annotated[str, typer.Option(help="Only this log.")] = "",
    where: Annotated[
        str,
        typer.Option(help="SQL condition over table scenes, or a SELECT that gives scene_token."),
    ] = "",
    cameras: Annotated[
        str, typer.Option(help="Cameras with commas, all, or none.")
    ] = "CAM_F0,CAM_L0,CAM_R0,CAM_B0",
    picture_width: Annotated[
        int, typer.Option(help="Scale pictures down to this width in pixels; 0: no pictures.")
    ] = 448,
    also: Annotated[
        list[str] | None,
        typer.Option(help="PLANNER@VERSION: an older version beside today's, to compare."),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="Folder of closed-loop runs (latentvla drive --out), beside the lake's."),
    ] = None,
    run_pictures: Annotated[
        int, typer.Option(min=0, help="Draw what the cameras saw in so many of the worst runs.")
    ] = 6,
    rrd: Annotated[
        bool, typer.Option("--rrd", help="Rerun recordings instead, one per log (rerun-sdk).")
    ] = False,
) -> None:
    """A page to browse drives, codes, plans and scores; opens from disk, a bucket or a mail."""
    from latentvla_core.lake.places import home_folder, lake_root
    from latentvla_core.lake.store import Lake
    from latentvla_core.viz.progress import counting
    from latentvla_core.viz.site.export import export_site
    from latentvla_core.viz.site.options import ViewOptions, cameras_named

    home = home_folder()
    options = ViewOptions(
        out=(out or home / ("recordings" if rrd else "site")).absolute(),
        log=log,
        where=where,
        cameras=cameras_named(cameras),
        width_px=0 if cameras == "none" else picture_width,
        also=tuple(also or ()),
        runs=runs,
        run_pictures=run_pictures,
    )
    if rrd:
        from latentvla_core.viz.recording import write_recordings

        for path in write_recordings(Lake(lake_root()), options):
            typer.echo(f"rerun {path}")
        return
    with counting("scenes") as progress:
        done = export_site(Lake(lake_root()), options, chapters=pages_of(home), progress=progress)
    typer.echo(told(done.refused))
    typer.echo(f"{done.scenes:,} scenes of {done.logs:,} logs in {done.seconds:.0f} s")
    typer.echo(f"open {done.out / 'index.html'}")


def pages_of(home: Path) -> dict[str, Path]:
    """Chapters of a working folder: the report, and the newest atlas and quality report."""
    return {
        "report": home / "report.html",
        "atlas": _newest(home / "reports", "latent_codes-*.html"),
        "quality": _newest(home / "reports", "latent_quality-*.html"),
        "evidence": _newest(home / "reports", "evidence-*.html"),
    }


def _newest(folder: Path, pattern: str) -> Path:
    pages = sorted(folder.glob(pattern), key=lambda page: page.stat().st_mtime)
    return pages[-1] if pages else folder / "none"


def told(refused: list[str]) -> str:
    """Cameras of which pictures could not be read: how many, and the first few with the reason."""
    if not refused:
        return "all pictures read"
    shown = "\n".join(f"  {line}" for line in refused[:5])
    more = f"\n  … and {len(refused) - 5} more" if len(refused) > 5 else ""
    head = "cameras whose pictures could not all be read; their tiles are empty"
    return f"{len(refused)} {head}\n{shown}{more}"
