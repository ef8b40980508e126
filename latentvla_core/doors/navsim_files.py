"""The folder that the NAVSIM devkit takes: an agent class, and its Hydra configuration."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from latentvla_core.closed_loop.driver import Driver
from latentvla_core.doors import moments
from latentvla_core.doors.seat import Seat
from latentvla_core.errors import SetupError

NAME = "latentvla_agent"


def write_agent(
    out: Path, driver: Driver, planner: str, features: str = "", sensor_blobs: Sequence[Path] = ()
) -> str:
    """Write `latentvla_agent.py` and `agent/latentvla_agent.yaml` below `out`; returns how to use
    them. Raises SetupError where something lies there.
    """
    Seat(driver)  # says so now if the driver cannot be served
    if out.exists() and any(out.iterdir()):
        raise SetupError(f"--out {out} is not empty; give a new folder, nothing is overwritten")
    (out / "agent").mkdir(parents=True)
    source = Path(moments.__file__).with_name("navsim_agent.py")
    shutil.copyfile(source, out / f"{NAME}.py")
    settings = {
        "_target_": f"{NAME}.LatentVLAAgent",
        "_convert_": "all",
        "command": command_line(planner, features),
        "cameras": list(driver.cameras),
        "sensor_blobs": [str(folder.resolve()) for folder in sensor_blobs],
        "server_path": str(Path(moments.__file__).resolve().parents[2]),
        "planner": driver.name,
    }
    # JSON is YAML: no text of the user's can be taken for syntax.
    lines = (f"{name}: {json.dumps(value)}" for name, value in settings.items())
    (out / "agent" / f"{NAME}.yaml").write_text("\n".join(lines) + "\n")
    return how_to(out.resolve())


def command_line(planner: str, features: str) -> list[str]:
    """The server's, in this Python; folders by their whole path, since the devkit runs elsewhere."""
    name = str(Path(planner).resolve()) if Path(planner).is_dir() else planner
    line = [sys.executable, "-m", "latentvla_core", "serve", "http", "--port", "0"]
    line += ["--planner", name]
    return [*line, "--features", str(Path(features).resolve())] if features else line


def how_to(out: Path) -> str:
    return (
        f"wrote {out}; in the devkit's environment:\n"
        f"  PYTHONPATH={out} python $NAVSIM_DEVKIT_ROOT/navsim/planning/script/run_pdm_score.py \\\n"
        f"    agent={NAME} 'hydra.searchpath=[pkg://navsim.planning.script.config.common,"
        f"file://{out}]' …"
    )
