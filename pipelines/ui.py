"""`make ui`: Dagster and MLflow side by side until Ctrl-C, both with the deployment's settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from latentvla_core.errors import LatentVLAError
from pipelines.registry.connection import connect
from pipelines.settings import Settings

DAGSTER_PORT = "3000"
MLFLOW_PORT = "5000"


def main() -> None:
    settings = Settings.from_env()
    connect(settings).search_registered_models(
        max_results=1
    )  # creates the database before two processes want to
    env = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
    }
    env["DAGSTER_HOME"] = str(settings.prepare_dagster_home())
    dagster = ["dagster", "dev", "-m", "pipelines.definitions", "-p", DAGSTER_PORT]
    mlflow = [
        "mlflow",
        "server",
        "--backend-store-uri",
        settings.mlflow_uri,
        "--port",
        MLFLOW_PORT,
        "--workers",
        "1",
    ]
    commands = {
        f"Dagster  http://localhost:{DAGSTER_PORT}": dagster,
        f"MLflow   http://localhost:{MLFLOW_PORT}": mlflow,
    }
    for line in commands:
        print(line)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends both, as Ctrl-C does
    # A session of its own each: a Ctrl-C reaches them only through us, so both stop whole (stack.md
    # §3.2).
    running = [
        subprocess.Popen([sys.executable, "-m", *command], env=env, start_new_session=True)
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
