"""A stranger follows docs/architecture.md, "Where is …?", alone: one file and one line for a planner,
one file and one line for a data set. Done in a copy of the project.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

TOY_HOST = '''
"""Drives the ego status through one linear layer."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from latentvla_core.planner.fusion import Fusion
from latentvla_core.planner.hosts.registry import Host
from latentvla_core.planner.inputs import TrajectoryTargets


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyConfig:
    width: int = 16

    @classmethod
    def debug(cls):
        return cls(width=8)

    mini = single_gpu = paper = debug


class Toy(nn.Module):
    name = "toy"

    def __init__(self, config, fusion=None, feature_dim=0):
        super().__init__()
        self.config = config
        self.query = nn.Linear(2, config.width)
        self.head = nn.Linear(config.width, 24)
        self.fusion = None if fusion is None else Fusion(fusion, feature_dim, config.width)

    def forward(self, batch):
        tokens = self.query(batch["speed"])[:, None]
        if self.fusion is not None:
            memory = self.fusion.memory(batch["vlm"])
            tokens = self.fusion(tokens, memory, torch.zeros_like(tokens[0]))
        return {"poses": self.head(tokens[:, 0]).unflatten(-1, (8, 3))}

    def backbone_parameters(self):
        return []


class ToyInputs:
    def __init__(self, config, records, scratch=None):
        self.faults = [""] * len(records)
        self.speed = torch.tensor(np.array([r.ego_velocity_mps for r in records]), dtype=torch.float32)

    def batch(self, indices):
        return {"speed": self.speed[indices]}


def training_loss(planner, simulator):
    def loss(batch, step):
        value = (planner(batch)["poses"] - batch["targets"]["trajectory"]).abs().mean()
        return value, {"l1": float(value)}

    return loss


HOST = Host(
    network=Toy,
    config=ToyConfig,
    inputs=ToyInputs,
    targets=lambda config, records, maps: TrajectoryTargets(records),
    loss=training_loss,
)
'''

DRIVE_THE_TOY = """
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, "tests/core")
from planner_factory import make_records

from latentvla_core.planner.model import build_planner, fuse, load, save
from latentvla_core.planner.plan import plan
from latentvla_core.planner.train import train_planner
from latentvla_core.recipes import debug
from pipelines.jobs import JOBS
from pipelines.stages import STAGES

home = Path(sys.argv[1])
recipe, records = debug().planner, make_records(home, 4)
host = build_planner("toy", recipe.host("toy"))
before = host.head.weight.detach().clone()
train_planner(host, records, recipe.train)
assert not host.head.weight.equal(before)
save(host, home / "toy")
poses = plan(load(home / "toy"), records)
assert poses.shape == (4, 8, 3) and np.isfinite(poses).all()
assert np.array_equal(poses, plan(host, records))
fused = fuse(host, recipe.fusion, 8)
save(fused, home / "fused")
assert load(home / "fused").fusion is not None
names = {"toy", "toy_latent", "toy_student"}
assert names <= set(STAGES) and names <= set(STAGES["trajectories"].deps)
assert names <= set(JOBS["whole_line"][0])
"""

TOY_FORMAT = '''
"""Drives as text: a pose `x y yaw` per line, two lines a second."""

import hashlib
import math

import numpy as np

from latentvla_core.data import DataFormat
from latentvla_core.errors import DataError
from latentvla_core.types import Command, Frame


def _token(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _frame(name, index, pose):
    half = pose[2] / 2
    return Frame(
        token=_token(f"{name}#{index}"), timestamp_us=index * 500_000, frame_idx=index,
        log_name=name, scene_token=_token(name), map_location="", ego_pose=pose,
        ego_translation_m=np.array([pose[0], pose[1], 0.0]),
        ego_rotation_wxyz=np.array([math.cos(half), 0.0, 0.0, math.sin(half)]),
        ego_velocity_mps=np.zeros(2), ego_acceleration_mps2=np.zeros(2),
        command=Command.UNKNOWN, roadblock_ids=(), traffic_lights=(), objects=None,
    )


def _read(path, name):
    slots, faults = [], []
    for index, line in enumerate(path.read_text().splitlines()):
        try:
            slots.append(_frame(name, index, np.array([float(word) for word in line.split()])))
        except (ValueError, IndexError) as error:
            slots.append(None)
            faults.append(DataError(str(error), file=str(path), frame=str(index)))
    return [slots], faults


FORMAT = DataFormat(
    what=".drive file",
    find=lambda folder: sorted((path.stem, path) for path in folder.glob("*.drive")),
    read=_read,
    file=lambda path: path,
    sensors=lambda path: path.parent,
)
'''

INGEST_THE_TOY = """
import sys
from pathlib import Path

import yaml

home = Path(sys.argv[1])
logs = home / "drives"
logs.mkdir(parents=True)
good = [f"{4.0 * i} 0.0 0.0" for i in range(16)]
(logs / "oak.drive").write_text("\\n".join(good))
(logs / "elm.drive").write_text("\\n".join([*good, "not a pose"]))
window = {"num_history_frames": 4, "num_future_frames": 10, "frame_interval": 1, "has_route": False}
source = {"split": "train", "format": "toy", "logs": str(logs), "filter": window}
(home / "sources.yaml").write_text(yaml.safe_dump({"splits": {"train": {k: v for k, v in source.items() if k != "split"}}}))

from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.engine import Engine

env = {"LATENTVLA_HOME": str(home), "LATENTVLA_SOURCES": str(home / "sources.yaml")}
settings = Settings.from_env({**env, "LATENTVLA_RECIPE": "debug", "LATENTVLA_SHARDS": "1"})
engine = Engine(settings, STAGES, lambda text: None)
engine.execute("logs")
for name in ("frames", "scenes"):
    engine.execute(name, "train-00")
assert set(engine.lake.read("logs")["log_name"].to_pylist()) == {"oak", "elm"}
assert engine.lake.read("frames").num_rows == 32
assert set(engine.lake.read("scenes")["log_name"].to_pylist()) == {"oak", "elm"}
refused = engine.lake.rows("quarantine")
assert [(row["file"], row["frame"]) for row in refused] == [("elm.drive", "16")]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy to write into; what is heavy and not needed stays out."""
    copy = tmp_path / "project"
    keep = shutil.ignore_patterns("__pycache__", ".*")
    for folder in ("latentvla_core", "pipelines", "tests/core"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=keep)
    return copy


def follow(project: Path, file: str, text: str, registry: str, line: str) -> None:
    """One new file, and one line in a registry, after the opening of its `MODULES`."""
    (project / file).write_text(text)
    path = project / registry
    opening = "MODULES: dict[str, str] = {\n"
    before = path.read_text()
    assert opening in before
    path.write_text(before.replace(opening, f"{opening}    {line}\n", 1))


def run(project: Path, script: str, home: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(home)],
        cwd=project, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_third_planner_is_one_file_and_one_line(project: Path, tmp_path: Path) -> None:
    hosts = "latentvla_core/planner/hosts"
    line = '"toy": "latentvla_core.planner.hosts.toy",'
    follow(project, f"{hosts}/toy.py", TOY_HOST, f"{hosts}/registry.py", line)
    run(project, DRIVE_THE_TOY, tmp_path)


def test_a_new_data_set_is_one_file_and_one_line(project: Path, tmp_path: Path) -> None:
    line = '"toy": "latentvla_core.data.toy",'
    data = "latentvla_core/data"
    follow(project, f"{data}/toy.py", TOY_FORMAT, f"{data}/__init__.py", line)
    run(project, INGEST_THE_TOY, tmp_path / "home")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    from latentvla_core.data import format_of
    from latentvla_core.errors import SetupError
    from latentvla_core.planner.hosts.registry import host_of

    with pytest.raises(SetupError, match="'tram' is unknown; choose one of transfuser, ipad"):
        host_of("tram")
    with pytest.raises(SetupError, match="'rosbag'; use navsim or frames_poses"):
        format_of("rosbag")
