"""`make ui`: Dagster, MLflow and the browser side by side until Ctrl-C, all with the deployment's
settings.

`python -m pipelines.ui --port 3100` moves all three: Dagster to 3100, MLflow to 5100, the browser
to 8100. A port that is taken is refused before anything starts.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

from latentvla_core.errors import LatentVLAError, SetupError
from pipelines.registry.connection import connect
from pipelines.services.links import point_links
from pipelines.settings import Settings


class Ports(NamedTuple):
    """Where each page is served, on this machine alone."""

    dagster: int = 3000
    mlflow: int = 5000
    browser: int = 8000

    @staticmethod
    def from_dagster(port: int) -> Ports:
        """The others keep their distance."""
        moved = port - Ports().dagster
        ports = Ports(*(usual + moved for usual in Ports()))
        if not all(0 < number < 65_536 for number in ports):
            raise SetupError(f"--port {port} gives ports {tuple(ports)}; take one from 1 to 60535")
        return ports


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=Ports().dagster, help="of Dagster")
    ports = Ports.from_dagster(parser.parse_args().port)
    check_free(ports)
    settings = Settings.from_env()
    # creates the database before two processes want to
    client = connect(settings)
    client.search_registered_models(max_results=1)
    write_first_site(settings)
    site_url = os.environ.get("LATENTVLA_SITE_URL") or f"http://localhost:{ports.browser}"
    point_links(client, site_url)
    env = {
        **os.environ,
        "LATENTVLA_SITE_URL": site_url,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_uri,  # no argument: `ps` shows those to all
        "DAGSTER_HOME": str(settings.prepare_dagster_home()),
    }
    serve(commands_of(settings, ports), env)


def write_first_site(settings: Settings) -> None:
    """The browser's pages of a lake that has scenes and was never shown; `latentvla view` writes
    them anew.
    """
    from latentvla_core.lake.store import Lake
    from pipelines.report import write_report

    if (settings.home / "site" / "index.html").is_file():
        return
    if Lake(settings.lake).version("scenes") >= 0:
        print("writing the browser's pages for the first time", flush=True)
        write_report(settings)


def check_free(ports: Ports) -> None:
    """Raises SetupError naming every port that somebody else listens on."""
    taken = []
    for name, port in ports._asdict().items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                taken.append(f"{port} ({name})")
    if taken:
        raise SetupError(
            f"port {', '.join(taken)} is taken; stop what listens there, or give another --port"
        )


def commands_of(settings: Settings, ports: Ports) -> dict[str, list[str]]:
    """What is told of each page → the module that serves it and its arguments."""
    site = settings.home / "site"
    found = {
        f"Dagster  http://localhost:{ports.dagster}": [
            "dagster", "dev", "-m", "pipelines.definitions", "-p", str(ports.dagster),
        ],
        f"MLflow   http://localhost:{ports.mlflow}": [
            "mlflow", "server", "--port", str(ports.mlflow), "--workers", "1",
        ],
    }  # fmt: skip
    if (site / "index.html").is_file():
        told = f"Browser  http://localhost:{ports.browser}"
        place = ["--bind", "127.0.0.1", "--directory", str(site)]
        found[told] = ["http.server", str(ports.browser), *place]
    return found


def serve(commands: Mapping[str, list[str]], env: Mapping[str, str]) -> None:
    """Until one of them ends, or Ctrl-C."""
    for line in commands:
        print(line)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends all, as Ctrl-C does
    # A session of its own each: a Ctrl-C reaches them only through us, so all stop whole (stack.md
    # §3.2).
    running = [
        subprocess.Popen([sys.executable, "-m", *command], env=dict(env), start_new_session=True)
        for command in commands.values()
    ]
    try:
        while all(process.poll() is None for process in running):
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in running:
        process.wait(timeout=30)


if __name__ == "__main__":
    try:
        main()
    except LatentVLAError as error:
        sys.exit(f"error: {error}")
