"""Which windows of a log become scenes: the devkit's `SceneFilter`, its files and rules
(navsim_format.md §2, §3).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from latentvla_core.data.fields import near_miss
from latentvla_core.data.navsim import read_log_slots
from latentvla_core.errors import DataError, DataFaults, SetupError
from latentvla_core.types import FRAME_INTERVAL_S, Frame, Scene

RAW_SPLITS = ("mini", "trainval", "test")
_SPLIT_FOLDER = "navsim/planning/script/config/common/train_test_split"
_IGNORED = (
    "non_reactive_synthetic_initial_tokens",
    "all_mapping",
    "data_split",
)  # the devkit does not use them either
_LISTS = ("log_names", "tokens", "synthetic_scene_tokens", "reactive_synthetic_initial_tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneFilter:
    """Fields and defaults of the devkit's class of the same name. Lists become sets."""

    num_history_frames: int = 4
    """Past frames including the current one."""
    num_future_frames: int = 10
    """Frames after the current one."""
    frame_interval: int | None = None
    """Step between window starts; None: history + future, so that windows do not overlap."""
    has_route: bool = True
    """Drop windows whose current frame has no route."""
    max_scenes: int | None = None
    """Stop when this many scenes are collected, over all logs."""
    log_names: frozenset[str] | None = None
    """Keep only these log files (name without `.pkl`)."""
    tokens: frozenset[str] | None = None
    """Keep only windows whose current frame is listed."""
    include_synthetic_scenes: bool = False
    """v2: also load synthetic scenes."""
    synthetic_scene_tokens: frozenset[str] | None = None
    """v2: initial tokens of the synthetic scenes to load."""
    reactive_synthetic_initial_tokens: frozenset[str] | None = None
    """v2: the second stage."""

    def __post_init__(self) -> None:
        for name in _LISTS:
            value = getattr(self, name)
            if isinstance(value, str):
                raise SetupError(
                    f"SceneFilter.{name} is the text {value!r}; a list of names is expected"
                )
            if value is not None:
                object.__setattr__(self, name, frozenset(value))
        rules = {
            "num_history_frames": (self.num_history_frames, 1),
            "num_future_frames": (self.num_future_frames, 0),
        }
        rules |= {"frame_interval": (self.interval, 1)}
        for name, (value, least) in rules.items():
            if value < least:
                raise SetupError(f"SceneFilter.{name} is {value}; it must be at least {least}")

    @property
    def num_frames(self) -> int:
        return self.num_history_frames + self.num_future_frames

    @property
    def interval(self) -> int:
        return self.num_frames if self.frame_interval is None else self.frame_interval


@dataclass(frozen=True, slots=True)
class StagePair:
    """One entry of a two-stage mapping: two original scenes 0.5 s apart and the synthetic pairs
    that continue them.
    """

    now: str
    previous: str
    synthetic: tuple[tuple[str, str], ...]
    """(synthetic token now, synthetic token 0.5 s before)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSpec:
    """A train/test split of the devkit: where its logs are and which scenes it takes."""

    name: str
    data_split: str
    """Folder below navsim_logs/ and sensor_blobs/."""
    filter: SceneFilter = field(default_factory=SceneFilter)
    two_stage: tuple[StagePair, ...] = ()
    """`reactive_all_mapping`; empty for one-stage splits."""


def scenes_of_log(
    frames: Sequence[Frame | None], filter: SceneFilter, split: str = ""
) -> list[Scene]:
    """The scenes of one log, in order of their window.

    As in the devkit, time stamps are not looked at: a gap the generator left, or the border of two
    nuPlan scenes, may lie inside a window. A `None` (quarantined frame) is different: no window
    contains it, and it does not shift others. `log_names` and `max_scenes` concern many logs; see
    `iter_scenes`.
    """
    size, now = filter.num_frames, filter.num_history_frames - 1
    scenes: dict[str, Scene] = {}
    for start in range(0, len(frames) - size + 1, filter.interval):
        window = [frame for frame in frames[start : start + size] if frame is not None]
        if len(window) == size and _wanted(window[now], filter):
            scenes[window[now].token] = Scene(tuple(window), filter.num_history_frames, split)
    return list(scenes.values())


def _wanted(current: Frame, filter: SceneFilter) -> bool:
    if filter.has_route and not current.roadblock_ids:
        return False
    return filter.tokens is None or current.token in filter.tokens


def log_name_of(path: str | Path) -> str:
    """File name without `.pkl` (log names contain dots, so `Path.stem` alone would do harm
    elsewhere).
    """
    return str(path).rsplit("/", 1)[-1].removesuffix(".pkl")


def iter_scenes(
    logs: Iterable[str | Path],
    filter: SceneFilter,
    split: str = "",
    *,
    faults: list[DataError] | None = None,
) -> Iterator[Scene]:
    """Scenes of many log files, one log in memory at a time.

    Frames with faults are left out and the faults appended to `faults`; without such a list the
    first log with faults raises DataFaults.
    """
    count = 0
    for path in logs:
        if filter.log_names is not None and log_name_of(path) not in filter.log_names:
            continue
        for scene in _scenes_of_file(path, filter, split, faults):
            if filter.max_scenes is not None and count >= filter.max_scenes:
                return
            count += 1
            yield scene


def _scenes_of_file(
    path: str | Path, filter: SceneFilter, split: str, faults: list[DataError] | None
) -> list[Scene]:
    slots, found = read_log_slots(path)
    if found and faults is None:
        raise DataFaults(found)
    if faults is not None:
        faults.extend(found)
    return scenes_of_log(slots, filter, split)


def load_filter(name_or_path: str | Path) -> SceneFilter:
    """The scene filter of a split (a name, or a YAML file of the devkit), see `load_split`."""
    return load_split(name_or_path).filter


def load_split(name_or_path: str | Path) -> SplitSpec:
    """A split by name or by file.

    `mini`, `trainval` and `test` are built in, unfiltered. Other names are looked up in the
    devkit's checkout ($NAVSIM_DEVKIT_ROOT). A file may be a split YAML (with its `scene_filter/`
    folder beside it) or a filter YAML.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")):
        return _split_from_file(Path(text))
    if text in RAW_SPLITS:
        return SplitSpec(name=text, data_split=text)
    return _split_from_file(_find_in_devkit(text))


def _find_in_devkit(name: str) -> Path:
    root = os.environ.get("NAVSIM_DEVKIT_ROOT", "")
    if not root:
        raise SetupError(
            f"split {name!r} is not built in ({', '.join(RAW_SPLITS)} are){near_miss(name, RAW_SPLITS)}; set "
            "NAVSIM_DEVKIT_ROOT to a checkout of the navsim devkit, which holds the token lists, or give a YAML file"
        )
    folder = Path(root) / _SPLIT_FOLDER
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        names = ", ".join(known) or f"none: {folder} holds no YAML; is NAVSIM_DEVKIT_ROOT right?"
        raise SetupError(
            f"split {name!r} is not among the devkit's ({names}){near_miss(name, known)}"
        )
    return folder / f"{name}.yaml"


def _split_from_file(path: Path) -> SplitSpec:
    raw = _read_yaml(path)
    if "data_split" not in raw:  # a filter file by itself
        return SplitSpec(
            name=path.stem,
            data_split=str(raw.get("data_split", "")),
            filter=_filter_from(raw, path),
        )
    inside = raw.get("scene_filter")
    if isinstance(inside, dict):
        scene_filter = _filter_from(inside, path)
    else:
        filter_path = path.parent / "scene_filter" / f"{_filter_name(raw, path)}.yaml"
        scene_filter = _filter_from(_read_yaml(filter_path), filter_path)
    mapping = _two_stage(raw.get("reactive_all_mapping"), path)
    return SplitSpec(
        name=path.stem, data_split=str(raw["data_split"]), filter=scene_filter, two_stage=mapping
    )


def _filter_name(raw: dict[str, Any], path: Path) -> str:
    for entry in raw.get("defaults") or []:
        if isinstance(entry, dict) and entry.get("scene_filter"):
            return str(entry["scene_filter"])
    raise SetupError(
        f"{path}: names no scene_filter under `defaults`; give a split YAML of the navsim devkit"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping whose scalars all stay text: a token such as 12e4567890123456 is no number."""
    import yaml

    loader = getattr(
        yaml, "CBaseLoader", yaml.BaseLoader
    )  # the C loader takes 1 s for navtrain's 103 288 tokens
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except OSError as error:
        raise SetupError(
            f"{path}: cannot be read ({error}); give a split YAML of the navsim devkit"
        ) from error
    except yaml.YAMLError as error:
        raise SetupError(f"{path}: not valid YAML ({error}); check the file out again") from error
    if not isinstance(raw, dict):
        raise SetupError(
            f"{path}: holds a {type(raw).__name__}; a YAML mapping of the navsim devkit is expected"
        )
    return raw


def _filter_from(raw: dict[str, Any], path: Path) -> SceneFilter:
    known = {f.name for f in fields(SceneFilter)}
    given = {
        key: value for key, value in raw.items() if not key.startswith("_") and key not in _IGNORED
    }
    if unknown := sorted(set(given) - known):
        raise SetupError(
            f"{path}: {unknown[0]!r} is no field of a scene filter{near_miss(unknown[0], known)}"
        )
    return SceneFilter(**{key: _value(key, value, path) for key, value in given.items()})


def _value(key: str, value: Any, path: Path) -> Any:
    if isinstance(value, str) and value.lower() in ("null", "none", "~", ""):
        return None
    if key in _LISTS:
        if not isinstance(value, list):
            raise SetupError(f"{path}: {key} is {value!r:.60}; a list or null is expected")
        return frozenset(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, str) and value.isdigit():
        return int(value)
    raise SetupError(f"{path}: {key} is {value!r:.60}; a number, true, false or null is expected")


def _two_stage(raw: Any, path: Path) -> tuple[StagePair, ...]:
    if not raw or isinstance(raw, str):  # absent or null
        return ()
    try:
        return tuple(
            StagePair(now, before, tuple((a, b) for a, b in pairs)) for now, before, pairs in raw
        )
    except (TypeError, ValueError) as error:
        raise SetupError(
            f"{path}: reactive_all_mapping needs [token, token, [[token, token], …]] entries ({error})"
        ) from error


def why_no_scenes(frames: Sequence[Frame | None], filter: SceneFilter) -> str:
    """Why a log gives no scene under a filter, in a sentence; "" when it gives one."""
    if scenes_of_log(frames, filter):
        return ""
    size = filter.num_frames
    seconds = (size - 1) * FRAME_INTERVAL_S
    if len(frames) < size:
        return f"{len(frames)} frames; a scene takes {size} ({seconds:g} s at 2 Hz), so the log is too short by {size - len(frames)}"
    holes = sum(frame is None for frame in frames)
    whole = scenes_of_log(frames, replace(filter, has_route=False, tokens=None))
    if not whole:
        return f"{holes} of {len(frames)} frames are in quarantine, and no {size} usable ones follow each other"
    if filter.has_route and not scenes_of_log(frames, replace(filter, tokens=None)):
        return "no frame that could be a current frame has a route (roadblock_ids); use has_route=False for logs without maps"
    return (
        f"none of its {len(whole)} windows is among the filter's {len(filter.tokens or ())} tokens"
    )
