"""scenes: windows to plan in, and what scoring needs to know of each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from latentvla_core.data.filters import SceneFilter
from latentvla_core.types import Frame, Scene
from pipelines import pictures, sources
from pipelines.steps import declare
from pipelines.steps.context import Output, StageContext
from pipelines.steps.lineage import place_of


@declare.shards(
    picture=pictures.scene_strip,
    deps=("frames",),
    group="scenes",
    recipe=("scene_filter",),
    files=("filter",),
    kinds=("deltalake",),
)
def scenes(context: StageContext, partition: str) -> Output:
    """Windows of history and future frames, selected by the devkit's filter rules (navsim_format.md
    §3).
    """
    from latentvla_core.data.records import row_from_record, scene_record

    roots = _sensor_roots(context, partition)
    windows = list(windows_of(context, partition))
    rows = [row_from_record(scene_record(scene, roots[scene.log_name])) for scene in windows]
    return Output(
        rows, metadata={"scenes": len(rows), "logs": len({row["log_name"] for row in rows})}
    )


@declare.shards(
    picture=pictures.world_view,
    deps=("frames",),
    group="scenes",
    recipe=("scene_filter",),
    kinds=("deltalake", "numpy"),
    files=("maps", "filter"),
    late=True,
)
def scene_worlds(context: StageContext, partition: str) -> Output:
    """What scoring needs of each scene, as plain columns: objects at 10 Hz, drivable area, centre
    line, PDM-Closed reference.

    Splits without a map have no rows: such scenes are not scored. A scene that cannot be scored
    keeps its row, with the reason.
    """
    from latentvla_core.data.map_files.maps import MapStore
    from latentvla_core.pdms.world import build

    split = place_of(partition)["split"]
    source = context.settings.source(split)
    if not source.maps:
        return Output([], metadata={"note": f"split {split} has no map: its scenes are not scored"})
    maps = MapStore(source.maps)
    windows = list(windows_of(context, partition))
    tracked = context.track(f"scene_worlds {partition} (scenes)", windows)
    worlds = [build(scene, maps.get(scene.current.map_location)) for scene in tracked]
    rows = [world.to_row() for world in worlds]
    unusable = [
        {"file": w.log_name, "frame": w.scene_token, "field": "", "reason": w.reason}
        for w in worlds
        if not w.valid
    ]
    return Output(
        rows, unusable, metadata={"scoreable": sum(w.valid for w in worlds), "scenes": len(worlds)}
    )


def windows_of(context: StageContext, partition: str) -> Iterator[Scene]:
    """Scenes of one shard, rebuilt from table `frames`."""
    from latentvla_core.data.filters import scenes_of_log

    split = place_of(partition)["split"]
    scene_filter = filter_of(context, split)
    for _, frames in _frames_by_log(context, partition):
        yield from scenes_of_log(frames, scene_filter, split)


def filter_of(context: StageContext, split: str) -> SceneFilter:
    """The split's own filter if the source names one, else the recipe's."""
    source = context.settings.source(split)
    return sources.filter_of(source) if source.filter else context.recipe.scene_filter


def _frames_by_log(
    context: StageContext, partition: str
) -> Iterator[tuple[str, list[Frame | None]]]:
    """Frames of each log in file order, None where one is in quarantine."""
    from latentvla_core.data.frame_rows import frame_from_row

    rows = context.lake.rows("frames", place_of(partition))
    rows.sort(key=lambda row: (row["log_name"], row["log_index"]))
    for log_name, group in groupby(rows, key=lambda row: row["log_name"]):
        by_index = {row["log_index"]: frame_from_row(row) for row in group}
        yield log_name, [by_index.get(i) for i in range(max(by_index) + 1)]


def _sensor_roots(context: StageContext, partition: str) -> dict[str, str]:
    table = context.lake.read("frames", place_of(partition), ["log_name", "sensor_root"])
    return dict(zip(table["log_name"].to_pylist(), table["sensor_root"].to_pylist(), strict=True))
