"""`latentvla export`: drives and labels for other people's tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Example: latentvla export --to webdataset --out shards --where \"split = 'train'\""


def export(
    to: Annotated[str, typer.Option(help="webdataset or lerobot.")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    log: Annotated[str, typer.Option(help="Only this log.")] = "",
    where: Annotated[
        str,
        typer.Option(help="SQL condition over table scenes, or a SELECT that gives scene_token."),
    ] = "",
    picture_width: Annotated[int, typer.Option(help="Scale pictures down to this width.")] = 448,
) -> None:
    """Drives with their labels as WebDataset shards or as a LeRobot data set."""
    from latentvla_core.errors import SetupError
    from latentvla_core.exports.lerobot import write_lerobot
    from latentvla_core.exports.shards import write_shards
    from latentvla_core.lake.places import lake_root
    from latentvla_core.lake.store import Lake
    from latentvla_core.viz.site.options import ViewOptions

    writers = {"webdataset": write_shards, "lerobot": write_lerobot}
    if to not in writers:
        raise SetupError(f"--to is {to!r}; use {' or '.join(writers)}")
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise SetupError(f"--out {out} is not empty; give a new folder, nothing is overwritten")
    options = ViewOptions(out=out, log=log, where=where, width_px=picture_width)
    done = writers[to](Lake(lake_root()), options)
    typer.echo(f"wrote {done.samples:,} samples in {len(done.files):,} files to {out}")
    for line in done.refused[:5]:
        typer.echo(f"left out: {line}", err=True)
    if len(done.refused) > 5:
        typer.echo(f"… and {len(done.refused) - 5} more left out", err=True)
