"""How fast are labels made, against decoding the same pictures and nothing else?

    python -m benchmarks.labelling --frames 600 --recipe long

Writes one drive of JPEGs (1920 × 1080 by default) with overlapping scenes, as a shard has them. The
limit is the plain decode of every picture of the shard, once, on the same core in the same run; CPU
seconds, one thread. --pictures takes JPEGs of a folder, in turn, instead of made ones: real frames
are smaller files, decode faster, and the encoders weigh more.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

from latentvla_core.data.cameras import decode_image, load_image
from latentvla_core.data.frames_poses import OPTICAL_TO_EGO
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.label import label_scenes
from latentvla_core.latent.model import LatentActionModel
from latentvla_core.training.images import ImageCache
from latentvla_core.types import FRONT_CAMERA, SceneRecord


def write_pictures(
    folder: Path, frames: int, size_wh: tuple[int, int], like: Path | None = None
) -> list[str]:
    """JPEGs with structure at all scales, each different; or those of a folder, over and over."""
    paths = [f"{i:05d}.jpg" for i in range(frames)]
    if like is not None:
        real = [path.read_bytes() for path in sorted(like.glob("*.jpg"))]
        for i, path in enumerate(paths):
            (folder / path).write_bytes(real[i % len(real)])
        return paths
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (68, 120, 3), np.uint8)).resize(
        size_wh, Image.Resampling.BICUBIC
    )
    base = np.asarray(small)
    for i, path in enumerate(paths):
        buffer = io.BytesIO()
        Image.fromarray(np.roll(base, 7 * i, axis=1)).save(buffer, "JPEG", quality=90)
        (folder / path).write_bytes(buffer.getvalue())
    return paths


def scenes_of(folder: Path, paths: list[str], size_wh: tuple[int, int]) -> list[SceneRecord]:
    """A scene at every frame that has four before and ten after it, as in navtrain; the camera is
    calibrated, as there.
    """
    zero, (width, height) = np.zeros(2), size_wh
    intrinsics = np.array(
        [[0.8 * width, 0.0, width / 2], [0.0, 0.8 * width, height / 2], [0.0, 0.0, 1.0]]
    )
    poses = np.stack([np.arange(14) * 4.0 - 12.0, np.zeros(14), np.zeros(14)], axis=-1)
    return [
        SceneRecord(
            scene_token=f"{t:05d}",
            log_name="log",
            split="train",
            map_location="",
            timestamp_us=t * 500_000,
            sensor_root=str(folder),
            ego_pose=poses[3],
            ego_velocity_mps=zero,
            ego_acceleration_mps2=zero,
            command=1,
            history_poses=poses[:4],
            history_velocities_mps=np.zeros((4, 2)),
            history_accelerations_mps2=np.zeros((4, 2)),
            future_poses=poses[4:],
            front_paths=tuple(paths[t - 3 : t + 11]),
            camera_names=(FRONT_CAMERA,),
            camera_paths=(paths[t],),
            camera_intrinsics_px=intrinsics[None],
            camera_rotations=OPTICAL_TO_EGO[None],
            camera_translations_m=np.array([[1.6, 0.0, 1.5]]),
            lidar_path="",
            object_boxes=np.zeros((0, 7)),
            object_classes=np.zeros(0, np.int8),
            object_velocities_mps=np.zeros((0, 2)),
            roadblock_ids=(),
            has_objects=False,
        )
        for t in range(3, len(paths) - 10)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(1920, 1080), metavar=("WIDTH", "HEIGHT")
    )
    parser.add_argument("--pictures", type=Path, help="folder of JPEGs of that size, used in turn")
    parser.add_argument(
        "--recipe", default="long", choices=("mini", "long"), help="whose networks label"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LatentActionModel(getattr(LatentActionConfig, args.recipe)()).eval()
    with tempfile.TemporaryDirectory() as name:
        folder, decoded = Path(name), []
        paths = write_pictures(folder, args.frames, tuple(args.size), args.pictures)
        records = scenes_of(folder, paths, tuple(args.size))
        used = sorted({path for r in records for path in r.front_paths[3:10:2]})
        size = model.config.features.image_size_wh

        def load(root: str, path: str, size_wh: tuple[int, int]) -> np.ndarray:
            decoded.append(path)
            return load_image(root, path, size_wh)

        label_scenes(records[:8], model)  # warm
        began = time.process_time()
        for path in used:
            decode_image((folder / path).read_bytes(), size, name=path)
        limit = time.process_time() - began
        began = time.process_time()
        labels = label_scenes(records, model, cache=ImageCache(size, load=load, threads=1))
        whole = time.process_time() - began
    print(
        f"{len(records)} scenes, {len(used)} pictures of {args.size[0]} x {args.size[1]}, each decoded "
        f"{len(decoded) / len(used):.2f} times, {labels.valid.sum()} transitions"
    )
    print(f"decode alone   {len(used) / limit:7.1f} frames/s ({limit:.2f} CPU-s)")
    print(
        f"labelling      {len(used) / whole:7.1f} frames/s ({whole:.2f} CPU-s): {limit / whole:.0%} of the decode limit"
    )


if __name__ == "__main__":
    main()
