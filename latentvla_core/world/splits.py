"""Split files in the devkit's own form (navsim_format.md §2-3): one YAML per split, its filter in
`scene_filter/`.
"""

from __future__ import annotations

from pathlib import Path

_FILTER = """_target_: navsim.common.dataclasses.SceneFilter
_convert_: 'all'

num_history_frames: 4
num_future_frames: 10
frame_interval: 1
has_route: true
max_scenes: null
log_names:
{logs}
tokens: null
"""
_SPLIT = """defaults:
  - scene_filter: {name}

data_split: {folder}
"""


def write_splits(folder: Path, logs: dict[str, tuple[str, ...]]) -> None:
    """`world_<split>.yaml` for every split that has logs: like navtrain and navtest, every full
    window is a scene.
    """
    (folder / "scene_filter").mkdir(parents=True, exist_ok=True)
    for split, names in logs.items():
        if not names:
            continue
        name = f"world_{split}"
        listed = "\n".join(f"  - '{log}'" for log in sorted(names))
        (folder / "scene_filter" / f"{name}.yaml").write_text(
            _FILTER.format(logs=listed), encoding="utf-8"
        )
        data = "test" if split == "test" else "trainval"
        (folder / f"{name}.yaml").write_text(
            _SPLIT.format(name=name, folder=data), encoding="utf-8"
        )
