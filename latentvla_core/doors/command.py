"""`latentvla serve …`: one planner, a door for each kind of simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from latentvla_core.errors import SetupError

serve_app = typer.Typer(
    no_args_is_help=True,
    help="A planner for other simulators: NAVSIM devkit, AlpaSim, anything that speaks HTTP.",
)
Planner = Annotated[
    str, typer.Option(help="Baseline, folder of a saved planner, or registered NAME@ALIAS.")
]
Features = Annotated[
    str, typer.Option(help="Folder of the student or VLM of a fused planner's folder.")
]
Host = Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")]


def _driver(planner: str, features: str) -> Any:
    from latentvla_core.closed_loop.drivers.planners import driver_of

    return driver_of(planner, Path(features) if features else None)


@serve_app.command("http", epilog="Example: latentvla serve http --planner ipad@champion")
def http(
    planner: Planner,
    features: Features = "",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8100,
) -> None:
    """POST /drive with a moment as JSON (docs/doors.md) → 8 poses, or the reason why not."""
    from latentvla_core.doors.http_driver import DriverServer

    driver = _driver(planner, features)
    try:
        server = DriverServer(driver, host, port)
    except OSError as error:
        raise SetupError(
            f"{host}:{port} cannot be listened at ({error}); give another --port"
        ) from error
    print(server.url, flush=True)  # the NAVSIM agent waits for this line
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


@serve_app.command("alpasim", epilog="Example: latentvla serve alpasim --planner ipad@champion")
def alpasim(
    planner: Planner,
    features: Features = "",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the gRPC service.")] = 50051,
) -> None:
    """AlpaSim's egodriver.EgodriverService (needs the extra `alpasim`)."""
    try:
        from latentvla_core.doors import alpasim as door
    except ImportError as error:
        raise SetupError(f"{error}; pip install 'latentvla[alpasim]'") from error
    driver = _driver(planner, features)
    print(f"egodriver of {driver.name} at {host}:{port}", flush=True)
    door.serve(driver, host, port)


@serve_app.command(
    "navsim", epilog="Example: latentvla serve navsim --planner ipad@champion --out D"
)
def navsim(
    planner: Planner,
    out: Annotated[Path, typer.Option(help="New folder for the agent and its configuration.")],
    features: Features = "",
    sensor_blobs: Annotated[
        list[Path] | None,
        typer.Option(help="Folders sensor_blobs/SPLIT: the planner then reads the very JPEGs."),
    ] = None,
) -> None:
    """An agent for the unmodified NAVSIM devkit v1.1 or v2.2, which asks a server beside it."""
    from latentvla_core.doors.navsim_files import write_agent

    driver = _driver(planner, features)
    typer.echo(write_agent(out, driver, planner, features, sensor_blobs or []))
