"""The environment, read once, in one place. Everything has a working embedded default.

| variable | meaning | default |
|---|---|---|
| LATENTVLA_HOME | working folder: embedded world, lake, models, tracking database | ./.latentvla |
| LATENTVLA_LAKE | root of the Delta tables, a folder or s3://… | $LATENTVLA_HOME/lake |
| MLFLOW_TRACKING_URI | tracking server or database | sqlite:///$LATENTVLA_HOME/mlflow.db |
| LATENTVLA_RECIPE | debug, mini, single_gpu, paper, or a YAML file of differences
(examples/long.yaml) | mini |
| LATENTVLA_SOURCES | YAML that names the splits and where their logs are | – |
| OPENSCENE_DATA_ROOT, NUPLAN_MAPS_ROOT | a NAVSIM tree, as the devkit reads it | the embedded world
|
| LATENTVLA_TRAIN_SPLIT, LATENTVLA_TEST_SPLIT | devkit split name or YAML used with
OPENSCENE_DATA_ROOT | navtrain, navtest |
| LATENTVLA_SHARDS | shards per split; of a lake they may become more, not fewer | 2 embedded, 64
otherwise |
| LATENTVLA_QWEN, LATENTVLA_DINOV2 | local folders of published weights, for single_gpu and paper |
– |
| LATENTVLA_DATA_ROOTS | folders beside the sensor roots that links of logs may lead to | – |
| LATENTVLA_DEVICE | torch device | cuda if there is one, else cpu |
| LATENTVLA_ENGINE | who does shards: processes of this machine, or ray (RAY_ADDRESS) | processes |
| LATENTVLA_SITE_URL | where the browser's pages are served, for links to them |
http://localhost:8000, or the port of `make ui` |
| LATENTVLA_DEVICES | processes of one training, each with a device of its own | 1 |
| LATENTVLA_SPREAD | ddp: each holds the whole model; fsdp: a part of it | ddp |
| LATENTVLA_COMPILE | 1: torch.compile in trainings on several devices | – |
| LATENTVLA_WORKERS | processes of this machine side by side; 1 = one after the other | its cores |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from latentvla_core.data import MODULES
from latentvla_core.errors import SetupError
from latentvla_core.lake.places import home_folder, lake_root, usable_folder, without_password
from latentvla_core.recipes import Weights
from pipelines.steps.lineage import partition_key

SOURCE_FIELDS = {"format", "logs", "sensors", "maps", "filter", "part"}
REGISTRIES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
ENGINES = ("processes", "ray")
SPREADS = ("ddp", "fsdp")
TRAIN, VAL, TEST = "train", "val", "test"
LOCAL_SITE = "http://localhost:8000"  # where `make ui` serves the browser


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where the logs of one split of the lake come from."""

    split: str
    format: str = "navsim"
    """navsim: a folder of log pickles. frames_poses: a folder of sequences (frames/ and poses.csv)."""
    logs: str
    """Folder of the logs."""
    sensors: str = ""
    """Folder that picture and lidar paths are relative to."""
    maps: str = ""
    """nuPlan maps; empty = no map, so the split is not scored."""
    filter: str | Mapping[str, Any] = ""
    """Devkit split name, path of a devkit split YAML, or fields of a scene filter; empty = the
    recipe's.
    """
    part: tuple[float, float] = (0.0, 1.0)
    """Share of the logs by hash of their name, so that train and val can come from one folder and
    never share a log.
    """

    def __post_init__(self) -> None:
        if self.format not in MODULES:
            raise SetupError(
                f"source {self.split}: format is {self.format!r}; use {' or '.join(MODULES)}"
            )
        if not 0.0 <= self.part[0] < self.part[1] <= 1.0:
            raise SetupError(
                f"source {self.split}: part is {self.part}; needs 0 <= low < high <= 1"
            )
        if not self.split.replace("_", "").isalnum():
            raise SetupError(
                f"source {self.split!r}: a split name has only letters, digits and underscores"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One deployment."""

    home: Path
    lake: str
    mlflow_uri: str = field(repr=False)
    """May hold a password: shown by `without_password` alone."""
    recipe: str
    shards: int
    device: str
    embedded: bool
    """True: the logs are written by the embedded world."""
    sources: tuple[Source, ...]
    weights: Weights = field(default_factory=Weights)
    engine: str = "processes"
    """Who does the shards of an asset: processes or ray."""
    workers: int = 1
    """Processes of this machine side by side."""
    devices: int = 1
    """Processes of one training."""
    spread: str = "ddp"
    """How they share the model: ddp or fsdp."""
    site_url: str = LOCAL_SITE
    """Where the folder that `latentvla view` writes is served."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(source.split for source in self.sources)

    @property
    def partitions(self) -> tuple[str, ...]:
        return tuple(
            partition_key(split, shard) for split in self.splits for shard in range(self.shards)
        )

    def source(self, split: str) -> Source:
        return next(s for s in self.sources if s.split == split)

    @property
    def models(self) -> Path:
        return self.home / "models"

    def prepare_dagster_home(self) -> Path:
        """Set DAGSTER_HOME if it is not (the checkout's dagster_home/, so that demo and UI share
        it) and make it ready.
        """
        ours = Path(__file__).resolve().parent.parent / "dagster_home"
        default = ours if (ours / "dagster.yaml").is_file() else self.home / "dagster"
        home = usable_folder("DAGSTER_HOME", os.environ.get("DAGSTER_HOME") or str(default))
        os.environ["DAGSTER_HOME"] = str(home)
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "dagster.yaml").exists():
            text = (
                (ours / "dagster.yaml").read_text()
                if ours.is_dir()
                else "telemetry: {enabled: false}\n"
            )
            (home / "dagster.yaml").write_text(text)
        return home

    @staticmethod
    def from_env(env: Mapping[str, str] | None = None) -> Settings:
        """Settings of this process. Raises SetupError that names the variable and the remedy."""
        env = os.environ if env is None else env
        home = home_folder(env)
        sources = _sources(env, home)
        embedded = sources[: len(world_sources(home))] == world_sources(home)
        return Settings(
            home=home,
            lake=lake_root(env),
            mlflow_uri=_registry(
                env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"
            ),
            recipe=env.get("LATENTVLA_RECIPE") or "mini",
            shards=_shards(env.get("LATENTVLA_SHARDS"), 2 if embedded else 64),
            device=env.get("LATENTVLA_DEVICE") or "auto",
            embedded=embedded,
            sources=sources,
            weights=Weights(
                qwen=env.get("LATENTVLA_QWEN", ""), dinov2=env.get("LATENTVLA_DINOV2", "")
            ),
            engine=_engine(env.get("LATENTVLA_ENGINE") or ENGINES[0]),
            workers=_workers(env.get("LATENTVLA_WORKERS")),
            devices=_devices(env.get("LATENTVLA_DEVICES")),
            spread=_spread(env.get("LATENTVLA_SPREAD") or SPREADS[0]),
            site_url=env.get("LATENTVLA_SITE_URL") or LOCAL_SITE,
        )


def _registry(uri: str) -> str:
    """A tracking URI that MLflow has a store with a model registry for; a wrong one is told before
    any work is done.
    """
    kind, _, place = uri.partition("://")
    if uri.partition(":")[0] == "databricks" or (place and kind.partition("+")[0] in REGISTRIES):
        return uri
    known = ", ".join(f"{name}://" for name in REGISTRIES)
    raise SetupError(
        f"MLFLOW_TRACKING_URI is {without_password(uri)!r}; needs a server or a database ({known}) or databricks; unset it for"
        " sqlite in LATENTVLA_HOME"
    )


def _engine(name: str) -> str:
    if name not in ENGINES:
        raise SetupError(f"LATENTVLA_ENGINE is {name!r}; use {' or '.join(ENGINES)}")
    return name


def _workers(text: str | None) -> int:
    if not text:
        return os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise SetupError(f"LATENTVLA_WORKERS is {text!r}; needs a whole number from 1")
    return int(text)


def _devices(text: str | None) -> int:
    if text and (not text.isdigit() or int(text) < 1):
        raise SetupError(f"LATENTVLA_DEVICES is {text!r}; needs a whole number from 1")
    return int(text or 1)


def _spread(name: str) -> str:
    if name not in SPREADS:
        raise SetupError(f"LATENTVLA_SPREAD is {name!r}; use {' or '.join(SPREADS)}")
    return name


def _shards(text: str | None, default: int) -> int:
    if not text:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= 512:
        raise SetupError(f"LATENTVLA_SHARDS is {text!r}; needs a whole number from 1 to 512")
    return int(text)


def _sources(env: Mapping[str, str], home: Path) -> tuple[Source, ...]:
    if path := env.get("LATENTVLA_SOURCES"):
        return read_sources(Path(path), env, home)
    if root := env.get("OPENSCENE_DATA_ROOT"):
        maps = env.get("NUPLAN_MAPS_ROOT") or str(Path(root) / "maps")
        train, test = (
            env.get("LATENTVLA_TRAIN_SPLIT") or "navtrain",
            env.get("LATENTVLA_TEST_SPLIT") or "navtest",
        )
        return tree_sources(Path(root), maps, train, test)
    return world_sources(home)


def world_sources(home: Path) -> tuple[Source, ...]:
    """The embedded world's train, val and test, by the split files the world writes."""
    world = home / "world"

    def source(split: str, folder: str) -> Source:
        logs, sensors = world / "navsim_logs" / folder, world / "sensor_blobs" / folder
        rule = str(world / "splits" / f"world_{split}.yaml")
        return Source(
            split=split, logs=str(logs), sensors=str(sensors), maps=str(world / "maps"), filter=rule
        )

    return (source(TRAIN, "trainval"), source(VAL, "trainval"), source(TEST, "test"))


def tree_sources(root: Path, maps: str, train: str, test: str) -> tuple[Source, ...]:
    """train, val and test of one NAVSIM tree: val is a tenth of the trainval logs, by hash of the
    log name.
    """

    def source(split: str, folder: str, scene_filter: str, part: tuple[float, float]) -> Source:
        logs, sensors = root / "navsim_logs" / folder, root / "sensor_blobs" / folder
        return Source(
            split=split,
            logs=str(logs),
            sensors=str(sensors),
            maps=maps,
            filter=scene_filter,
            part=part,
        )

    return (
        source(TRAIN, "trainval", train, (0.0, 0.9)),
        source(VAL, "trainval", train, (0.9, 1.0)),
        source(TEST, "test", test, (0.0, 1.0)),
    )


def read_sources(path: Path, env: Mapping[str, str], home: Path) -> tuple[Source, ...]:
    """Sources of a YAML file: `splits: {name: {format, logs, sensors, maps, filter, part}}`;
    ${VARIABLES} are expanded.

    `embedded_world: true` adds the embedded world's train, val and test to them.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SetupError(
            f"LATENTVLA_SOURCES is {path}: {error}; give a readable YAML file (examples/)"
        ) from error
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, dict) or not splits:
        raise SetupError(f"{path}: needs a mapping `splits:` with at least one split (examples/)")
    world = world_sources(home) if content.get("embedded_world") else ()
    twice = sorted({source.split for source in world} & {str(name) for name in splits})
    if twice:
        raise SetupError(
            f"{path}: splits {twice} are the embedded world's; rename them, or drop `embedded_world: true`"
        )
    return (*world, *(_source(path, str(name), fields, env) for name, fields in splits.items()))


def _source(path: Path, name: str, fields: Any, env: Mapping[str, str]) -> Source:
    if not isinstance(fields, dict):
        raise SetupError(
            f"{path}: split {name}: is {fields!r}; needs fields, at least `logs: FOLDER` (examples/)"
        )
    unknown = set(fields) - SOURCE_FIELDS
    if unknown or "logs" not in fields:
        fault = (
            f"unknown fields {sorted(map(str, unknown))}" if unknown else "field `logs` is missing"
        )
        raise SetupError(f"{path}: split {name}: {fault}; known are {sorted(SOURCE_FIELDS)}")
    values: dict[str, Any] = {
        k: _expand(path, name, v, env) if isinstance(v, str) else v for k, v in fields.items()
    }
    for key, value in values.items():
        if key not in ("part", "filter") and not isinstance(value, str):
            raise SetupError(f"{path}: split {name}: {key} is {value!r}; a text is expected")
    if "part" in values:
        values["part"] = _part(path, name, values["part"])
    return Source(split=name, **values)


def _part(path: Path, name: str, value: Any) -> tuple[float, float]:
    try:
        low, high = map(float, value)
    except (TypeError, ValueError) as error:
        raise SetupError(
            f"{path}: split {name}: part is {value!r}; needs [low, high], e.g. [0.0, 0.9]"
        ) from error
    return low, high


def _expand(path: Path, name: str, text: str, env: Mapping[str, str]) -> str:
    for variable, value in env.items():
        text = text.replace(f"${{{variable}}}", value)
    if "${" in text:
        raise SetupError(
            f"{path}: split {name}: {text!r} uses a variable that is not set; export it"
        )
    return text
