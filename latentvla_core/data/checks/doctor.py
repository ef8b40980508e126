"""The data doctor: what is there, what is missing, what will go wrong, and what to do about it.

Reads a whole split once (metadata of every log; one picture and one point cloud per log) and never
stops at a fault.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentvla_core.data.cameras import load_image
from latentvla_core.data.checks.doctor_maps import MapChecks
from latentvla_core.data.checks.findings import Finding, Findings, Level, Report
from latentvla_core.data.files import join, list_dir
from latentvla_core.data.filters import (
    SceneFilter,
    SplitSpec,
    load_split,
    log_name_of,
    scenes_of_log,
    why_no_scenes,
)
from latentvla_core.data.guards.places import place_below
from latentvla_core.data.layout import DATA_ROOT_VARIABLE, MAPS_ROOT_VARIABLE, DataRoot
from latentvla_core.data.lidar import read_pcd
from latentvla_core.data.navsim import read_log_slots
from latentvla_core.data.v2.synthetic_scenes import SYNTHETIC_TOKEN_LENGTH
from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import FRAME_INTERVAL_S, FRONT_CAMERA, Frame, Scene

__all__ = ["Finding", "Level", "Report", "check"]

GAP_TOLERANCE_S = 0.1
"""Real key frames jitter by milliseconds; a step off by more is a gap that the devkit does not see."""

SENTENCES = "scenes with all pictures of their label"
COUNTS = ("logs", "frames", "quarantined frames", "frames without objects", "scenes", SENTENCES)


def check(
    root: str | Path | None, split: str, *, filter: str | SceneFilter | None = None
) -> Report:
    """Examine one split. `filter` (a devkit split name, a YAML file or a filter) says which scenes
    are wanted.

    Never raises for bad data: everything found is in the report, whose `exit_code` is 1 when
    something is broken.
    """
    findings = Findings()
    counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
    try:
        data = DataRoot.find(root)
        spec = _spec(split, filter)
        logs = data.logs(split)
        _check_environment(data, findings)
        _check_folder(data, split, logs, findings)
        _Examination(data, split, spec.filter, findings, counts).run(logs)
    except SetupError as error:
        message, _, remedy = str(error).partition("; ")
        findings.add(Level.FAIL, "set-up", message, remedy=remedy)
    return Report(root=str(root or ""), split=split, counts=counts, findings=findings.all())


def _spec(split: str, filter: str | SceneFilter | None) -> SplitSpec:
    if isinstance(filter, SceneFilter):
        return SplitSpec(name=split, data_split=split, filter=filter)
    return load_split(filter) if filter else SplitSpec(name=split, data_split=split)


def _check_environment(data: DataRoot, findings: Findings) -> None:
    used = {DATA_ROOT_VARIABLE: data.root, MAPS_ROOT_VARIABLE: data.maps_root()}
    for name, value in used.items():
        given = os.environ.get(name, "")
        if not given:
            message = f"{name} is not set; this check uses {value}"
            findings.add(
                Level.OK,
                "environment",
                message,
                remedy=f"export {name}={value} for the devkit and for defaults",
            )
        elif given.rstrip("/") != value.rstrip("/"):
            message = f"{name} is {given}, but this check uses {value}"
            findings.add(
                Level.WARN,
                "environment",
                message,
                remedy="make them agree, or go on if you meant it",
            )


def _check_folder(data: DataRoot, split: str, logs: Sequence[str], findings: Findings) -> None:
    if not logs:
        remedy = "download the logs of this split (14 GB for trainval, 1 GB for test or mini)"
        findings.add(Level.FAIL, "logs", f"navsim_logs/{split} holds no .pkl file", remedy=remedy)
    for path in data.stray_files(split):
        message = "a file in the log folder is no log; the devkit opens everything there as one"
        findings.add(Level.WARN, "logs", message, remedy="move it elsewhere", place=path)
    mine = {log_name_of(path) for path in logs}
    for other in data.splits():
        shared = (
            sorted(mine & {log_name_of(path) for path in data.logs(other)})
            if other != split
            else []
        )
        if shared:
            level = (
                Level.WARN if "mini" in (split, other) else Level.FAIL
            )  # mini is for trying things out
            message = f"logs are in both {split} and {other}; a model would be tested on what it was trained on"
            remedy = "remove them from one of the two"
            findings.add(
                level,
                "splits",
                message,
                remedy=remedy,
                place=", ".join(shared[:3]),
                count=len(shared),
            )


class _Examination:
    """One pass over the logs of a split."""

    def __init__(
        self,
        data: DataRoot,
        split: str,
        filter: SceneFilter,
        findings: Findings,
        counts: dict[str, int],
    ) -> None:
        self.data, self.split, self.filter = data, split, filter
        self.findings, self.counts = findings, counts
        self.sensor_root = data.sensor_root(split)
        self.maps = MapChecks(data.maps_root(), findings)
        self.seen: dict[str, str] = {}  # token → log of every scene
        self.found_tokens: set[str] = set()
        self.no_scenes: Counter[str] = Counter()

    def run(self, logs: Sequence[str]) -> None:
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        for path in track(
            logs, "examining logs", console=console, transient=True, disable=not sys.stderr.isatty()
        ):
            self._log(path)
        self.maps.check_index()
        self._check_sentences()
        self._check_expected(logs)

    def _log(self, path: str) -> None:
        self.counts["logs"] += 1
        slots, faults = read_log_slots(path)
        for fault in faults:
            self._fault(fault)
        frames = [frame for frame in slots if frame is not None]
        self.counts["frames"] += len(frames)
        self.counts["quarantined frames"] += len(slots) - len(frames)
        self.counts["frames without objects"] += sum(frame.objects is None for frame in frames)
        self._check_frames(path, frames)
        if self.filter.log_names is not None and log_name_of(path) not in self.filter.log_names:
            return
        scenes = scenes_of_log(slots, self.filter, self.split)
        self.counts["scenes"] += len(scenes)
        self._check_scenes(path, scenes)
        if not scenes and slots:
            self.findings.add(
                Level.WARN,
                "scenes",
                "logs give no scene",
                place=f"{path}: {why_no_scenes(slots, self.filter)}",
            )

    def _fault(self, fault: DataError) -> None:
        message = (
            "frames break the format and are left out"
            if fault.frame
            else "log files cannot be read"
        )
        remedy = "get the log again from its source; the pipeline goes on without these frames"
        self.findings.add(
            Level.FAIL,
            "frames" if fault.frame else "logs",
            message,
            remedy=remedy,
            place=str(fault),
        )

    def _check_frames(self, path: str, frames: Sequence[Frame]) -> None:
        if frames and frames[0].log_name != log_name_of(path):
            message = "log_name differs from the file name; scene filters select by file name"
            remedy = "rename the file, unless it holds many logs on purpose (private test sets)"
            self.findings.add(
                Level.WARN, "logs", message, remedy=remedy, place=f"{path}: {frames[0].log_name}"
            )
        self._check_times(path, frames)
        self._check_tokens(path, frames)

    def _check_times(self, path: str, frames: Sequence[Frame]) -> None:
        steps_s = np.diff([frame.timestamp_us for frame in frames]) * 1e-6
        for i in np.flatnonzero(steps_s <= 0).tolist():
            place = f"{path}, frame #{i + 1} ({frames[i + 1].token}): {steps_s[i]:.3f} s after the one before"
            remedy = "sort the frames of each drive by time, and keep one log per file"
            self.findings.add(
                Level.FAIL,
                "time",
                "time goes backwards or stands still",
                remedy=remedy,
                place=place,
            )
        for i in np.flatnonzero(
            (steps_s > 0) & (np.abs(steps_s - FRAME_INTERVAL_S) > GAP_TOLERANCE_S)
        ).tolist():
            message = f"steps differ from {FRAME_INTERVAL_S} s; like the devkit, this project counts frames, not seconds"
            remedy = "expected where sensors dropped out; leave the tokens near it out if you need exact speeds"
            place = f"{path}, frame #{i + 1} ({frames[i + 1].token}): {steps_s[i]:.3f} s"
            self.findings.add(Level.WARN, "time", message, remedy=remedy, place=place)

    def _check_tokens(self, path: str, frames: Sequence[Frame]) -> None:
        for token, number in Counter(frame.token for frame in frames).items():
            other = self.seen.setdefault(token, path)
            if number > 1 or other != path:
                place = f"{token} in {path}" + ("" if other == path else f" and {other}")
                remedy = "tokens name scenes; make them unique, or only the last one is used"
                self.findings.add(
                    Level.FAIL, "frames", "tokens occur more than once", remedy=remedy, place=place
                )
            if len(token) == SYNTHETIC_TOKEN_LENGTH:
                message = f"tokens of {SYNTHETIC_TOKEN_LENGTH} characters; the devkit takes these for synthetic scenes"
                self.findings.add(
                    Level.WARN,
                    "frames",
                    message,
                    remedy="use 16 characters",
                    place=f"{token} in {path}",
                )

    def _check_scenes(self, path: str, scenes: Sequence[Scene]) -> None:
        self.found_tokens.update(scene.token for scene in scenes)
        self._check_sensors(path, scenes)
        for scene in scenes:
            self.maps.check_scene(path, scene)

    def _check_sensors(self, path: str, scenes: Sequence[Scene]) -> None:
        """Pictures of the whole window of CAM_F0, the others and the lidar of the current frame:
        what is trained on.
        """
        front = {
            f.cameras[FRONT_CAMERA].path
            for s in scenes
            for f in s.frames
            if FRONT_CAMERA in f.cameras
        }
        now = {camera.path for s in scenes for camera in s.current.cameras.values()}
        there = self._check_files(sorted((front | now) - {""}), "pictures", path)
        self.counts[SENTENCES] += sum(_has_pictures_of_label(scene, there) for scene in scenes)
        self._check_files(
            sorted({s.current.lidar_path for s in scenes} - {""}), "point clouds", path
        )
        if scenes and not front:
            message = "scenes have no front camera; they can be scored, not trained on"
            self.findings.add(Level.WARN, "sensors", message, place=path, count=len(scenes))

    def _check_files(self, paths: Sequence[str], what: str, log: str) -> set[str]:
        """The paths that are there. Folders are listed once each: a stat per file would take
        hours on a real split.
        """
        folders = {path.rsplit("/", 1)[0] if "/" in path else "" for path in paths}
        present = {
            entry
            for folder in folders
            for entry in list_dir(join(self.sensor_root, folder) if folder else self.sensor_root)
        }
        missing = [path for path in paths if join(self.sensor_root, path) not in present]
        self.counts[what] = self.counts.get(what, 0) + len(paths) - len(missing)
        if missing:
            remedy = (
                f"download the sensor blobs of this split to {self.sensor_root}; scoring needs none"
            )
            place = f"{log_name_of(log)}: {_by_folder(missing)} of {len(paths)}, e.g. {missing[0]}"
            self.findings.add(
                Level.WARN,
                "sensors",
                f"{what} are missing",
                remedy=remedy,
                place=place,
                count=len(missing),
            )
        there = [path for path in paths if join(self.sensor_root, path) in present]
        if there:
            self._try_one(there[len(there) // 2], what)
        return set(there)

    def _try_one(self, path: str, what: str) -> None:
        try:
            if what == "pictures":
                load_image(self.sensor_root, path, (64, 36))
            else:
                read_pcd(place_below(self.sensor_root, path))
        except DataError as error:
            remedy = "download the sensor blobs of this log again"
            self.findings.add(
                Level.FAIL, "sensors", f"{what} are damaged", remedy=remedy, place=str(error)
            )

    def _check_sentences(self) -> None:
        """A latent-action sentence needs the front pictures of the future, too."""
        whole, scenes = self.counts[SENTENCES], self.counts["scenes"]
        if whole == scenes:
            return
        message = f"full sentences possible for {whole:,} of {scenes:,} scenes"
        remedy = (
            "labels need CAM_F0 of the current and of all future frames; the sensor download of"
            " navtrain has none of future frames: get trainval's of these logs (docs/data.md)"
        )
        self.findings.add(Level.WARN, "labels", message, remedy=remedy, count=scenes - whole)

    def _check_expected(self, logs: Sequence[str]) -> None:
        """Against the filter's own lists: what it names and the disk does not have."""
        if self.filter.tokens is not None and (
            lost := sorted(self.filter.tokens - self.found_tokens)
        ):
            message = f"scenes of the filter are not found ({len(self.found_tokens):,} of {len(self.filter.tokens):,} are)"
            remedy = (
                "download the logs that are missing; any mean over fewer scenes is not comparable"
            )
            self.findings.add(
                Level.FAIL,
                "scenes",
                message,
                remedy=remedy,
                place=", ".join(lost[:3]),
                count=len(lost),
            )
        names = {log_name_of(path) for path in logs}
        if self.filter.log_names is not None and (absent := sorted(self.filter.log_names - names)):
            message = "logs of the filter are not on disk"
            remedy = "download them; is this the data split the filter is for?"
            self.findings.add(
                Level.FAIL, "logs", message, remedy=remedy, place=absent[0], count=len(absent)
            )


def _has_pictures_of_label(scene: Scene, there: set[str]) -> bool:
    """Whether the front pictures of the current frame and of all of the future are there."""
    return all(
        FRONT_CAMERA in frame.cameras and frame.cameras[FRONT_CAMERA].path in there
        for frame in (scene.current, *scene.future)
    )


def _by_folder(paths: Sequence[str]) -> str:
    """`27 CAM_B0, 3 CAM_F0`: how many paths per camera folder."""
    folders = Counter(path.rsplit("/", 2)[-2] if path.count("/") else "" for path in paths)
    return ", ".join(f"{number} {folder}" for folder, number in sorted(folders.items()))
