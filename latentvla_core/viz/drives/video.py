"""A driven run as an mp4: what the front camera saw, ten pictures a second, with what went wrong.

The encoder comes with the package `imageio-ffmpeg` (extra `video`): nothing is installed beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.closed_loop.drivers.eyes import renderer_of
from latentvla_core.closed_loop.scenes.sets import spec_of
from latentvla_core.closed_loop.steps import Run
from latentvla_core.errors import SetupError
from latentvla_core.types import FRONT_CAMERA, Array
from latentvla_core.world.state import Snapshot

FPS = 10
SHOWN_S = 2.0
"""How long an infraction stays on the picture."""
BEFORE, AFTER = 80, 30
"""Steps of 0.1 s that are shown before and after the first infraction."""


def require_encoder() -> None:
    """Raises SetupError with the remedy where no encoder is installed."""
    try:
        import imageio_ffmpeg  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SetupError(
            "videos need the encoder of imageio-ffmpeg: pip install 'latentvla[video]'"
        ) from error


def video_name(run: Run) -> str:
    """File name of a run's video."""
    return f"{run.scene}-{Path(run.driver).name}-{run.traffic}.mp4".replace("@", "-at-")


def write_video(
    path: Path,
    run: Run,
    infractions: Sequence[Mapping[str, Any]],
    picture_wh: tuple[int, int] = (448, 252),
) -> Path:
    """The run around its first infraction (rows of `closed_loop_infractions`), or its last seconds
    where there is none. Raises SetupError without an encoder.
    """
    require_encoder()
    import imageio_ffmpeg  # pyright: ignore[reportMissingImports]

    path.parent.mkdir(parents=True, exist_ok=True)
    quiet: dict[str, Any] = {"macro_block_size": 2, "ffmpeg_log_level": "error", "quality": 7}
    writer = imageio_ffmpeg.write_frames(str(path), picture_wh, fps=FPS, **quiet)
    writer.send(None)
    try:
        for frame in told_frames(run, infractions, picture_wh):
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()
    return path


def shown_steps(run: Run, infractions: Sequence[Mapping[str, Any]]) -> range:
    """Steps that a video shows."""
    first = min((row["step"] for row in infractions), default=run.steps)
    return range(max(0, first - BEFORE), min(run.steps, first + AFTER) + 1)


def told_frames(
    run: Run, infractions: Sequence[Mapping[str, Any]], picture_wh: tuple[int, int]
) -> Iterator[Array]:
    """(H, W, 3) uint8 pictures of the front camera with time, speed, and what went wrong just now."""
    renderer = renderer_of(spec_of(dict(run.spec)), picture_wh)
    for step in shown_steps(run, infractions):
        moment = run.moments[step]
        seen = Snapshot(step * 0.1, run.states[step, :3], moment.actors, dict(moment.lights))
        yield _told(renderer.render(seen, FRONT_CAMERA), caption(run, step, infractions))


def caption(run: Run, step: int, infractions: Sequence[Mapping[str, Any]]) -> str:
    """What stands on the picture of a step."""
    now = [
        row["kind"].replace("_", " ")
        for row in infractions
        if 0 <= step - row["step"] < SHOWN_S * FPS
    ]
    return f"{run.driver}  {step * 0.1:4.1f} s  {run.states[step, 3]:4.1f} m/s  {', '.join(now)}"


def _told(picture: Array, text: str) -> Array:
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, image.width, 15), fill=(0, 0, 0))
    pen.text((4, 2), text.strip(), fill=(255, 255, 255))
    return np.asarray(image)
