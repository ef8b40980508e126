"""PostgreSQL is stopped hard and started again under a run: Dagster's records and MLflow's both lie
in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.soak import line
from benchmarks.soak.children import Child, value
from benchmarks.soak.faults import Report, hurt
from benchmarks.soak.kills import Soak
from benchmarks.soak.store import free_port

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
DATABASES = ("dagster", "mlflow")


class Database:
    """A PostgreSQL of its own in a folder, for this machine alone, without a password."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        self._do("initdb", "-U", "soak", "-A", "trust")
        self.start()
        for name in DATABASES:
            words = ["psql", "-q", "-U", "soak", "-h", "127.0.0.1", "-p", str(self.port)]
            subprocess.run([*words, "-c", f"CREATE DATABASE {name}", "postgres"], check=True)

    def url(self, name: str) -> str:
        return f"postgresql+psycopg2://soak@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        self._do("pg_ctl", "start", "-w", "-l", "/dev/null", "-o", options)

    def stop(self) -> None:
        """As a machine that loses power does: nothing is written first."""
        self._do("pg_ctl", "stop", "-m", "immediate")

    def _do(self, program: str, *more: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*user, str(PROGRAMS[-1] / program), "-D", str(self.folder), *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def database(folder: Path) -> Iterator[Database | None]:
    """None where PostgreSQL is not installed, or its user cannot reach the folder."""
    if not PROGRAMS:
        yield None
        return
    if os.geteuid() == 0:  # its own user walks to the folder
        for parent in folder.parents:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o055)
    made = Database(folder)
    try:
        yield made
    finally:
        made.stop()


def run_of_dagster(soak: Soak, home: Path) -> None:
    """One run of the whole little line as a run worker does it. Raises RuntimeError with the first
    step that failed.
    """
    import dagster as dg

    from pipelines.definitions import build

    definitions = build(soak.settings, line.LITTLE, pooled=False)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        result = definitions.resolve_job_def("whole_line").execute_in_process(
            instance=instance, raise_on_error=False,
            tags={
                "dagster/asset_partition_range_start": soak.settings.partitions[0],
                "dagster/asset_partition_range_end": soak.settings.partitions[-1],
            },
        )  # fmt: skip
    for event in result.all_events:
        if event.is_step_failure:
            fault = event.step_failure_data.error
            while fault and fault.cause:
                fault = fault.cause
            raise RuntimeError(f"{event.step_key}: {fault.message if fault else ''}"[:500])


def database_faults(soak: Soak, report: Report, base: Database, times: int) -> None:
    """A new training and all that follows it, as a run of Dagster's; the database goes away at a
    random moment of it for some seconds.
    """
    home = soak.log.parent / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        f"storage: {{postgres: {{postgres_url: '{base.url('dagster')}'}}}}\n"
    )
    import dagster_postgres  # noqa: F401, before children are forked

    import pipelines.definitions  # noqa: F401

    recipe = Path(soak.settings.recipe)
    for seed in (2, 1):  # the second, warm one says how long a run takes
        line.write_recipe(recipe, steps=20, hidden=16, batch_size=8, seed=seed)
        began = time.monotonic()
        value(lambda: run_of_dagster(soak, home), soak.log)
        calm_s = time.monotonic() - began
    for turn in range(times):
        line.write_recipe(recipe, steps=20, hidden=16, batch_size=8, seed=turn % 2 + 2)

        def work(ready: object) -> None:
            run_of_dagster(soak, home)

        child = Child.start(work, soak.log)
        time.sleep(soak.dice.uniform(0.1, 0.9) * calm_s)
        base.stop()
        time.sleep(soak.dice.uniform(0.5, 4.0))
        base.start()
        ended = child.result()
        line.write_recipe(recipe, steps=20, hidden=16, batch_size=8)
        hurt(soak, report, "PostgreSQL restarted", ended)


def with_records_in(soak: Soak, base: Database) -> Soak:
    """The same soak with MLflow's records in the database."""
    return replace(soak, settings=replace(soak.settings, mlflow_uri=base.url("mlflow")))
