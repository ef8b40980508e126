"""What to put into a site, decided before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentvla_core.errors import SetupError
from latentvla_core.types import CAMERA_NAMES

DEFAULT_CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0", "CAM_B0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewOptions:
    """One export."""

    out: Path
    log: str = ""
    """Only this log; "" = all."""
    where: str = ""
    """SQL condition over table `scenes`, or a whole SELECT that gives scene_token; "" = all."""
    cameras: tuple[str, ...] = DEFAULT_CAMERAS
    width_px: int = 448
    """Pictures wider than this are scaled down; 0 leaves pictures out."""
    scenes: bool = True
    """False: the index alone, without a page per scene."""
    also: tuple[str, ...] = ()
    """Older versions shown beside today's: "PLANNER@VERSION"."""
    runs: Path | None = None
    """Folder of closed-loop runs, as `latentvla drive --out` writes it, beside those of the lake."""
    run_pictures: int = 6
    """So many of the worst runs are drawn as their cameras saw them: seconds each."""

    def __post_init__(self) -> None:
        if unknown := set(self.cameras) - set(CAMERA_NAMES):
            raise SetupError(
                f"--cameras names {', '.join(sorted(unknown))}; use {', '.join(CAMERA_NAMES)}"
            )
        if self.width_px < 0:
            raise SetupError(f"--picture-width is {self.width_px}; use 0 (no pictures) or more")
        if wrong := [name for name in self.also if not all(name.partition("@"))]:
            raise SetupError(f"--also is {wrong[0]!r}; use PLANNER@VERSION, e.g. ipad@3f9a")


def cameras_named(text: str) -> tuple[str, ...]:
    """Cameras of `--cameras`: names with commas, `all`, or `none`."""
    named: dict[str, Sequence[str]] = {"all": CAMERA_NAMES, "none": ()}
    return tuple(named.get(text, [part.strip() for part in text.split(",") if part.strip()]))
