"""The command line. Each command parses, calls one function of the core, and prints; nothing is
decided here.

Commands that need the orchestrator (`demo`) are registered as entry points of group
`latentvla.commands`, so the core works without it.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from latentvla_core import __version__
from latentvla_core.doors.command import serve_app
from latentvla_core.errors import LatentVLAError, SetupError
from latentvla_core.exports.command import EPILOG as EXPORT_EPILOG
from latentvla_core.exports.command import export
from latentvla_core.lake.locks import held
from latentvla_core.lake.places import without_password
from latentvla_core.lake.printing import printable, write_table
from latentvla_core.lake.versions import versions_of
from latentvla_core.viz.drives.command import EPILOG as DRIVE_EPILOG
from latentvla_core.viz.drives.command import drive
from latentvla_core.viz.progress import counting
from latentvla_core.viz.site.command import EPILOG as VIEW_EPILOG
from latentvla_core.viz.site.command import view

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help=f"LatentVLA {__version__}: latent driving actions.",
)
world_app = typer.Typer(no_args_is_help=True, help="The embedded driving world.")
data_app = typer.Typer(no_args_is_help=True, help="Driving logs on disk.")
app.add_typer(world_app, name="world")
app.add_typer(data_app, name="data")
lake_app = typer.Typer(no_args_is_help=True, help="The Delta tables: keeping them compact.")
app.add_typer(lake_app, name="lake")
app.add_typer(serve_app, name="serve")
app.command("view", epilog=VIEW_EPILOG)(view)
app.command("export", epilog=EXPORT_EPILOG)(export)
app.command("drive", epilog=DRIVE_EPILOG)(drive)


@world_app.command(
    "write", epilog="Example: latentvla world write --out /data/world --logs 8 --seed 1"
)
def world_write(
    out: Annotated[
        Path, typer.Option(help="New folder for navsim_logs/, sensor_blobs/ and maps/.")
    ],
    logs: Annotated[
        int, typer.Option(min=2, help="Number of logs; about one in five goes to the test split.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
) -> None:
    """Write a data set in NAVSIM's own layout: log pickles, JPEGs, lidar, nuPlan maps."""
    from latentvla_core.world.write import WorldConfig, write_world

    if out.is_file() or (out.exists() and any(out.iterdir())):
        fault = "is a file" if out.is_file() else "is not empty"
        raise SetupError(f"--out {out} {fault}; give a new folder, nothing is overwritten")
    beside = out.absolute().with_name(
        f".{out.absolute().name}.partial"
    )  # a killed run leaves no half world at --out
    with held(out.absolute(), wait=False):
        shutil.rmtree(beside, ignore_errors=True)
        with counting("frames") as progress:
            write_world(beside, WorldConfig.for_logs(logs, seed), progress)
        beside.rename(out)
    typer.echo(f"wrote {logs} logs to {out}; try: latentvla data check --root {out} --split test")


@data_app.command(
    "check", epilog="Example: latentvla data check --root $OPENSCENE_DATA_ROOT --split test"
)
def data_check(
    root: Annotated[
        Path, typer.Option(help="NAVSIM tree (OPENSCENE_DATA_ROOT), or folder of own drives.")
    ],
    split: Annotated[
        str, typer.Option(help="Folder below navsim_logs/; none: drives of frames and poses.")
    ] = "",
    scene_filter: Annotated[str, typer.Option("--filter", help="Devkit split name or YAML.")] = "",
) -> None:
    """The data doctor: what is there, what is missing, what to do about it. Exit code 1 when
    something is broken.
    """
    from latentvla_core.data.checks.drives import check_folder

    report = check_folder(root, split, scene_filter)
    report.print()
    raise typer.Exit(report.exit_code)


@app.command(
    "score",
    epilog="Example: latentvla score --root ROOT --split test --trajectories T.parquet --out S.parquet",
)
def score(
    root: Annotated[Path, typer.Option(help="NAVSIM tree with navsim_logs/ and maps/.")],
    split: Annotated[str, typer.Option(help="Folder below navsim_logs/.")],
    trajectories: Annotated[
        Path,
        typer.Option(help="Parquet with scene_token, trajectory_id, poses; or submission.pkl."),
    ],
    out: Annotated[Path, typer.Option(help="Parquet to write.")],
    metric: Annotated[str, typer.Option(help="pdms (v1.1) or epdms (v2.2).")] = "pdms",
    scene_filter: Annotated[str, typer.Option("--filter", help="Devkit split name or YAML.")] = "",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    traffic: Annotated[str, typer.Option(help="replay, or reactive (epdms).")] = "replay",
    two_stage: Annotated[
        bool, typer.Option("--two-stage", help="Both stages of a two-stage --filter (epdms).")
    ] = False,
) -> None:
    """PDM score of any trajectories on any NAVSIM tree, equal to the official devkit."""
    from latentvla_core.scoring import score_tree, score_two_stage

    if two_stage:
        if metric != "epdms" or not scene_filter:
            raise SetupError(
                "--two-stage needs --metric epdms and --filter SPLIT, e.g. navhard_two_stage"
            )
        stages = score_two_stage(
            root, split, trajectories, out, scene_filter=scene_filter, workers=workers
        )
        typer.echo(str(stages))
        return
    summary = score_tree(
        root,
        split,
        trajectories,
        metric,
        out,
        scene_filter=scene_filter or None,
        traffic=traffic,
        workers=workers,
    )
    typer.echo(str(summary))


@app.command(
    "submission",
    epilog="Example: latentvla submission --split test --trajectory-id ipad --out submission.pkl",
)
def submission(
    out: Annotated[Path, typer.Option(help="submission.pkl to write.")],
    trajectories: Annotated[
        Path | None,
        typer.Option(
            help="Parquet with scene_token, trajectory_id, poses; default: the lake's table."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the lake's table.")] = "",
    trajectory_id: Annotated[str, typer.Option(help="Whose plans, if there are several.")] = "",
    version: Annotated[str, typer.Option(help="v1 (one stage) or v2 (two stages).")] = "v1",
    team_name: Annotated[str, typer.Option(help="Who submits.")] = "",
    authors: Annotated[str, typer.Option(help="All authors in one text.")] = "",
    email: Annotated[str, typer.Option()] = "",
    institution: Annotated[str, typer.Option()] = "",
    country: Annotated[str, typer.Option()] = "",
) -> None:
    """The official submission file of NAVSIM v1.1 or v2.2, from any trajectories table."""
    from latentvla_core.data.v2.submissions import SubmissionInfo
    from latentvla_core.lake.places import lake_root
    from latentvla_core.scoring.submit import plans_from, submit

    who = SubmissionInfo(
        team_name=team_name,
        authors=authors,
        email=email,
        institution=institution,
        country_or_region=country,
    )
    plans = plans_from(trajectories, lake_root(), split, trajectory_id)
    made = submit(out, plans, version=version, trajectory_id=trajectory_id, info=who)  # type: ignore[arg-type]
    typer.echo(
        f"wrote {len(made.first_stage)} + {len(made.second_stage)} plans to {out} ({version})"
    )


@app.command("sql", epilog='Example: latentvla sql "select ego_codes from latent_actions limit 5"')
def sql(
    query: Annotated[
        str, typer.Argument(help="SQL over tables and views (docs/tables.md); none: a prompt.")
    ] = "",
    style: Annotated[str, typer.Option("--format", help="table, csv or parquet.")] = "table",
    out: Annotated[Path | None, typer.Option(help="File to write; parquet needs one.")] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="TABLE=VERSION: that Delta version. MODEL or MODEL/VERSION: what that model was trained on."
        ),
    ] = None,
) -> None:
    """Embedded SQL over the Delta tables, now or as they were; it reads and nothing else
    (docs/queries.md). Without a query: a prompt.
    """
    from latentvla_core.lake.places import lake_root
    from latentvla_core.lake.sql import tables_of
    from latentvla_core.lake.store import Lake

    lake = Lake(lake_root())
    _check_style(style, out, lake.root)
    versions = versions_of(lake, at or [])
    if not query:
        return _prompt(lake, versions, style, out)
    if at and (today := [name for name in tables_of(query) if name not in versions]):
        typer.echo(
            f"{', '.join(today)}: as of now, because {' '.join(at)} says no version of it", err=True
        )
    write_table(lake.sql(query, versions), style, out)


def _prompt(lake: Any, versions: dict[str, int], style: str, out: Path | None) -> None:
    from contextlib import suppress

    from latentvla_core.prompt import ask, reader_of

    if out is not None:
        raise SetupError(f"--out {out} needs a query; the prompt shows its answers")
    session = lake.session(versions)
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401  (arrow keys and history)
        read = input
    else:
        read = reader_of(sys.stdin)
    ask(session.run, lambda rows: write_table(rows, style, None), typer.echo, read)


@lake_app.command("compact", epilog="Example: latentvla lake compact latent_actions")
def lake_compact(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables; all if none is named.")
    ] = None,
) -> None:
    """Join small files, sorting tables that declare an order. Changes no row; old versions stay
    readable.
    """
    from latentvla_core.lake.maintenance import compact
    from latentvla_core.lake.places import lake_root
    from latentvla_core.lake.store import Lake

    for kept in compact(Lake(lake_root()), tables or ()):
        typer.echo(str(kept))


@lake_app.command("drop-split", epilog="Example: latentvla lake drop-split old_drives --yes")
def lake_drop_split(
    split: Annotated[str, typer.Argument(help="A split that no source offers any more.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else only say what it would.")] = False,
) -> None:
    """Delete the rows of a split that was renamed or removed from every table. What happened
    (releases, materialisations, models) stays, and so do old versions until `lake vacuum`.
    """
    from latentvla_core.lake.places import lake_root
    from latentvla_core.lake.splits import drop_split
    from latentvla_core.lake.store import Lake

    for table, rows in drop_split(Lake(lake_root()), split, dry_run=not yes).items():
        typer.echo(f"{table:<18} {rows} rows {'deleted' if yes else 'would be deleted'}")
    if not yes:
        typer.echo("nothing was deleted; add --yes")


@lake_app.command("vacuum", epilog="Example: latentvla lake vacuum --keep-days 90 --dry-run")
def lake_vacuum(
    tables: Annotated[
        list[str] | None, typer.Argument(help="Tables; all if none is named.")
    ] = None,
    keep_days: Annotated[
        int, typer.Option(min=0, help="Keep what was replaced in the last days.")
    ] = 30,
    forget_models: Annotated[
        bool, typer.Option(help="Also delete what registered models were trained on.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Only count.")] = False,
) -> None:
    """Delete files of old versions, except those that registered models were trained on."""
    from latentvla_core.lake.maintenance import vacuum
    from latentvla_core.lake.places import lake_root
    from latentvla_core.lake.store import Lake

    lake = Lake(lake_root())
    for kept in vacuum(
        lake, tables or (), keep_days=keep_days, forget_models=forget_models, dry_run=dry_run
    ):
        typer.echo(str(kept))


def _check_style(style: str, out: Path | None, root: str) -> None:
    """Before the query runs. Raises SetupError when `write_table` could not do what is asked for."""
    if style not in ("table", "csv", "parquet"):
        raise SetupError(f"--format is {style!r}; use table, csv or parquet")
    if style == "parquet" and out is None:
        raise SetupError("--format parquet writes a file; give it with --out FILE.parquet")
    if style == "table" and out is not None:
        raise SetupError(
            f"--out {out}: --format table is for the screen; add --format csv or --format parquet"
        )
    if out is not None:
        from latentvla_core.scoring import check_writable

        if out.resolve().is_relative_to(Path(root).resolve()):
            raise SetupError(f"--out {out} lies inside the lake; give a file outside {root}")
        check_writable(out)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"latentvla {__version__}")
        raise typer.Exit


@app.callback()
def latentvla(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Say it and end."),
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command("info", epilog="Example: latentvla info")
def info() -> None:
    """Versions, devices, lake and registry: what to paste into a bug report."""
    from latentvla_core.info import environment

    rows = environment() + [
        row for plugin in entry_points(group="latentvla.info") for row in plugin.load()()
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


@app.command("sizes", epilog="Example: latentvla sizes paper")
def sizes(
    recipe: Annotated[str, typer.Argument(help="debug, mini, single_gpu or paper.")] = "paper",
) -> None:
    """Parameters of every model of a recipe, and the VLM's memory plan; built without memory or
    weights.
    """
    from latentvla_core.recipes import recipe_named
    from latentvla_core.sizes import parameter_counts
    from latentvla_core.vlm.memory import memory_plan

    chosen = recipe_named(recipe)
    for name, count in parameter_counts(chosen).items():
        typer.echo(f"{name:<20} {count / 1e6:12,.2f} M parameters")
    typer.echo(f"\n{memory_plan(chosen.vlm)}")


def main() -> None:
    """Entry point: plug-in commands, and errors as one message instead of a traceback."""
    os.environ.setdefault(
        "RUST_LOG", "error"
    )  # deltalake's S3 client warns at length about what our message says
    for plugin in entry_points(group="latentvla.commands"):
        app.command(plugin.name)(_lazy(plugin))
    try:
        app()
    except LatentVLAError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise  # not about a path of the user's
        _fail(
            f"{error.filename}: {error.strerror}; check the path, its permissions and the space on the disk"
        )


def _fail(message: str) -> None:
    typer.secho(f"error: {printable(without_password(message))}", fg=typer.colors.RED, err=True)
    sys.exit(2)


def _lazy(plugin: Any) -> Any:
    """The plug-in's function: typer needs its signature, so it is loaded only when its command is
    asked for.
    """
    if len(sys.argv) > 1 and sys.argv[1] == plugin.name:
        return plugin.load()

    def not_asked_for() -> None: ...

    not_asked_for.__doc__ = {
        "demo": "Embedded world → whole line → table, report, registry.",
        "status": "What is stale and why, champions, what changed, what failed and how to retry.",
        "rollback": "The champion before holds the alias again, and the gate leaves it there.",
    }.get(plugin.name, f"A command of {plugin.value}.")
    return not_asked_for
