"""Frames per second and core of the renderer, JPEG encoding included:
`python -m benchmarks.render --help`.
"""

from __future__ import annotations

import argparse
import io
import time

import numpy as np
from PIL import Image

from latentvla_core.types import CAMERA_NAMES
from latentvla_core.world.noise import HAVE_NUMBA
from latentvla_core.world.sensors.calibration import camera_rig
from latentvla_core.world.sensors.lidar import sweep
from latentvla_core.world.sensors.render import RenderConfig, Renderer
from latentvla_core.world.showcase import crossing, moment


def drive(renderer: Renderer, cameras: list[str], frames: int) -> float:
    """CPU seconds of one drive towards the crossing at 2 Hz and 10 m/s."""
    start = time.process_time()
    for x_m in -40.0 - 5.0 * np.arange(frames)[::-1]:
        for camera in cameras:
            picture = Image.fromarray(renderer.render(moment(float(x_m)), camera))
            picture.save(io.BytesIO(), "JPEG", quality=88)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--height", type=int, default=252)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument(
        "--numpy", action="store_true", help="measure the NumPy twin instead of numba"
    )
    args = parser.parse_args()
    size = (args.width, args.height)
    config = RenderConfig(use_numba=False if args.numpy else None)
    print(
        f"{size[0]} x {size[1]}, {'numba' if HAVE_NUMBA and not args.numpy else 'numpy'}, {args.frames} frames at 2 Hz"
    )
    Renderer(crossing(), camera_rig(size), size, config).render(moment(), "CAM_F0")  # compile
    for label, cameras in (("front camera", ["CAM_F0"]), ("eight cameras", list(CAMERA_NAMES))):
        renderer = Renderer(crossing(), camera_rig(size), size, config)
        for name, note in (
            ("first drive", "paints the ground on the way"),
            ("same road again", "ground is known"),
        ):
            seconds = drive(renderer, cameras, args.frames)
            rate = args.frames * len(cameras) / seconds
            print(f"{label:14s} {name:16s} {rate:7.1f} pictures/s per core   ({note})")
    start = time.process_time()
    for seed in range(args.frames):
        sweep(crossing(), moment(), seed)
    print(f"lidar          {args.frames / (time.process_time() - start):24.1f} sweeps/s per core")


if __name__ == "__main__":
    main()
