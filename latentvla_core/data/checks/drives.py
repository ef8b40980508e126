"""The doctor's look at drives of one's own: what each gives, and why one is refused."""

from __future__ import annotations

from pathlib import Path

from latentvla_core.data import format_of
from latentvla_core.data.cameras import load_image
from latentvla_core.data.checks.doctor import check
from latentvla_core.data.checks.findings import Findings, Level, Report
from latentvla_core.data.filters import SceneFilter, scenes_of_log, why_no_scenes
from latentvla_core.data.sequences import DESCRIPTION_FILE, describe
from latentvla_core.errors import DataError, DataFaults, SetupError
from latentvla_core.types import FRONT_CAMERA, Frame

DRIVES, LOGS, FRAMES = "drives", "logs (phases at 2 Hz)", "frames"
PICTURES, SCENES = "frames with a picture", "scenes"
SENTENCES = "scenes with all pictures of their label"
WINDOW = SceneFilter(
    num_history_frames=4, num_future_frames=10, frame_interval=1, has_route=False
)  # of the recipes


def check_folder(root: Path, split: str = "", scene_filter: str = "") -> Report:
    """A split of a NAVSIM tree, or without one all drives below a folder. Raises SetupError for a
    tree whose split is not named.
    """
    if split:
        return check(root, split, filter=scene_filter or None)
    if (root / "navsim_logs").is_dir():
        raise SetupError(f"{root} is a NAVSIM tree; name the split with --split")
    return check_drives(root)


def check_drives(folder: Path, window: SceneFilter = WINDOW) -> Report:
    """Every drive below a folder, read as ingest does. Never raises for bad data."""
    findings = Findings()
    counts: dict[str, int] = dict.fromkeys((DRIVES, LOGS, FRAMES, PICTURES, SCENES, SENTENCES), 0)
    kind = format_of("frames_poses")
    found = kind.find(folder)
    if not found:
        findings.add(
            Level.FAIL, "drives", f"the folder holds no {kind.what}",
            remedy="one folder per drive with frames/ and poses.csv (docs/data.md)",
            place=str(folder),
        )  # fmt: skip
    names: dict[str, Path] = {}
    for name, path in found:
        counts[DRIVES] += 1
        _same_name(findings, names, name, path)
        try:
            logs, faults = kind.read(path, name)
        except (DataError, DataFaults) as error:
            logs, faults = [], list(getattr(error, "faults", None) or [error])
        for fault in faults:
            _refused(findings, fault)
        _look(findings, counts, path, [frame for log in logs for frame in log if frame])
        for log in logs:
            _windows(findings, counts, path, log, window)
    return Report(
        root=str(folder), split="frames and poses", counts=counts, findings=findings.all()
    )


def _same_name(findings: Findings, names: dict[str, Path], name: str, path: Path) -> None:
    if (other := names.setdefault(name, path)) != path:
        findings.add(
            Level.FAIL, "drives", "drives share a name, so ingest refuses both",
            remedy="give one another `name` in sequence.yaml", place=f"{name}: {other} and {path}",
        )  # fmt: skip


def _refused(findings: Findings, fault: DataError | DataFaults) -> None:
    findings.add(
        Level.FAIL, "drives", "drives are refused, or give no labels",
        remedy="mend what the line says; the other drives are not concerned", place=str(fault),
    )  # fmt: skip


def _look(findings: Findings, counts: dict[str, int], path: Path, frames: list[Frame]) -> None:
    """Of the frames of one drive: pictures counted, one of them decoded, calibration."""
    shown = [frame.cameras[FRONT_CAMERA].path for frame in frames if frame.cameras]
    counts[FRAMES] += len(frames)
    counts[PICTURES] += len(shown)
    if shown and len(shown) < len(frames):
        findings.add(
            Level.WARN, "pictures", "frames have no picture near enough in time",
            remedy="picture_tolerance_s in sequence.yaml says how near; their labels are empty",
            place=f"{path}: {len(frames) - len(shown)} of {len(frames)}",
            count=len(frames) - len(shown),
        )  # fmt: skip
    if shown:
        try:
            load_image(str(path), shown[len(shown) // 2], (64, 36))
        except DataError as error:
            findings.add(
                Level.FAIL, "pictures", "pictures are damaged",
                remedy="copy them again", place=str(error),
            )  # fmt: skip
    if shown and describe(path).focal_px is None:
        findings.add(
            Level.WARN, "calibration", "the camera is not calibrated, so motion is not taken out"
            " of what environment codes see",
            remedy=f"focal_px and center_px in {DESCRIPTION_FILE}", place=str(path),
        )  # fmt: skip


def _windows(
    findings: Findings, counts: dict[str, int], path: Path, log: list[Frame | None],
    window: SceneFilter,
) -> None:  # fmt: skip
    scenes = scenes_of_log(log, window, "drives")
    counts[LOGS] += 1
    counts[SCENES] += len(scenes)
    counts[SENTENCES] += sum(
        all(frame.cameras for frame in (scene.current, *scene.future)) for scene in scenes
    )
    if not scenes and log:
        findings.add(
            Level.WARN, "scenes", "logs give no scene",
            remedy="a smaller window: filter in sources.yaml (docs/data.md)",
            place=f"{path}: {why_no_scenes(log, window)}",
        )  # fmt: skip
