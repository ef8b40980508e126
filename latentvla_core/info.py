"""What this installation is: versions, devices and the lake, for `latentvla info` and bug reports."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from latentvla_core import __version__
from latentvla_core.errors import LatentVLAError
from latentvla_core.lake.places import lake_root, without_password
from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES

PACKAGES = (
    "numpy",
    "shapely",
    "pyproj",
    "pyarrow",
    "numba",
    "polars",
    "deltalake",
    "torch",
    "transformers",
    "dagster",
    "mlflow",
)


def environment() -> list[tuple[str, str]]:
    """(name, value) lines; what is not installed says so."""
    rows = [
        ("latentvla", __version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
    ]
    rows += [(name, _version(name)) for name in PACKAGES]
    rows.append(("device", _device()))
    return rows + _lake()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    try:
        import torch
    except ImportError:
        return "cpu (torch is not installed)"
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} ({torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB)"
    return f"cpu, {torch.get_num_threads()} threads"


def _lake() -> list[tuple[str, str]]:
    rows = [("lake", without_password(lake_root()))]
    try:
        lake = Lake(lake_root())
        for name in TABLES:
            table = lake.delta(name)
            if table is not None:
                rows.append(
                    (
                        f"  {name}",
                        f"{lake.counts(name, ()).total()} rows, version {table.version()}",
                    )
                )
    except LatentVLAError as error:
        rows.append(("  tables", f"error: {error}"))
    except ImportError:
        rows.append(("  tables", "deltalake is not installed: pip install 'latentvla[data]'"))
    return rows
