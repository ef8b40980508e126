"""MLflow's local database, created whole or not at all.

MLflow builds it by some hundred migrations over several seconds. A process killed among them leaves
a file that no later one can open, and two processes that begin at the same time disturb each other.
So it is built beside its place, by one process at a time, and renamed when complete.
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

PREFIX = "sqlite:///"


def local_database(uri: str) -> Path | None:
    """The sqlite file that a tracking URI names; None for a server or another database."""
    return Path(uri.removeprefix(PREFIX)) if uri.startswith(PREFIX) else None


def ensure_database(uri: str) -> None:
    """Create the sqlite database of a tracking URI if it is not there; other stores look after
    themselves.
    """
    path = local_database(uri)
    if path is None or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock")):
        if not path.exists():
            _create(path)


def _create(path: Path) -> None:
    import mlflow
    from sqlalchemy import create_engine, text

    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)  # left by a killed process: it holds no run yet
    mlflow.MlflowClient(tracking_uri=PREFIX + str(partial)).search_registered_models(max_results=1)
    engine = create_engine(PREFIX + str(partial))
    with engine.connect() as connection:
        connection.execute(
            text("PRAGMA wal_checkpoint(TRUNCATE)")
        )  # everything in the one file that is renamed
    engine.dispose()
    partial.rename(path)
