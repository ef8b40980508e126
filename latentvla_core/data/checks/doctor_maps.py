"""The doctor's look at maps: are they there and whole, and do the logs drive on them?"""

from __future__ import annotations

import numpy as np
import shapely

from latentvla_core.data.checks.findings import Findings, Level
from latentvla_core.data.files import exists
from latentvla_core.data.map_files.maps import MapStore, map_path, read_index
from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import MAP_LOCATIONS, Array, RoadMap, Scene

MIN_BASELINE_VERTICES = 3
"""With fewer distinct vertices the reactive traffic of v2 fails (navsim_format.md §7.5)."""


class MapChecks:
    """Checks each map once, when the first scene on it comes along."""

    def __init__(self, maps_root: str, findings: Findings) -> None:
        self.maps_root, self.findings = maps_root, findings
        self._store = MapStore(maps_root)
        self._known: dict[str, _Known | None] = {}

    def check_index(self) -> None:
        """The devkit opens all four cities, whichever are used."""
        try:
            index = read_index(self.maps_root)
        except (SetupError, DataError) as error:
            if self._known:  # some log wants a map
                message, _, remedy = str(error).partition("; ")
                self.findings.add(Level.FAIL, "maps", message, remedy=remedy)
            return
        for location in MAP_LOCATIONS:
            if location not in index or not exists(map_path(self.maps_root, location)):
                message = "maps of cities are missing; the devkit opens all four even if one is used (this project does not)"
                self.findings.add(
                    Level.WARN, "maps", message, remedy="download the nuPlan maps", place=location
                )

    def check_scene(self, path: str, scene: Scene) -> None:
        """Route and lights known to the map, ego on it."""
        now = scene.current
        if not now.map_location:
            message = "scenes have no map; they train latent actions and cannot be scored"
            self.findings.add(Level.WARN, "maps", message, place=path)
            return
        known = self._map(now.map_location)
        if known is None:
            return
        where = f"{path}, frame {now.token}"
        if unknown := [block for block in now.roadblock_ids if block not in known.blocks]:
            remedy = (
                "is it the map of the right city and version? The devkit crashes on such scenes"
            )
            place = f"{where}, field roadblock_ids: {unknown[0]!r}"
            self.findings.add(
                Level.FAIL, "route", "route ids are not in the map", remedy=remedy, place=place
            )
        if lights := [light for light, _ in now.traffic_lights if light not in known.connectors]:
            remedy = "these lights are ignored; is it the map of the right version?"
            place = f"{where}, field traffic_lights: {lights[0]!r}"
            self.findings.add(
                Level.WARN, "route", "traffic lights are not in the map", remedy=remedy, place=place
            )
        if not known.contains(now.ego_pose):
            remedy = "is map_location right, and are poses in the UTM frame of that city?"
            place = f"{where}, field ego2global_translation: {now.ego_pose[:2].round(1).tolist()}"
            self.findings.add(
                Level.FAIL, "maps", "the ego is outside its map", remedy=remedy, place=place
            )

    def _map(self, location: str) -> _Known | None:
        if location not in self._known:
            self._known[location] = self._load(location)
        return self._known[location]

    def _load(self, location: str) -> _Known | None:
        try:
            road = self._store.get(location)
        except SetupError:
            return None  # check_index reports it once
        except DataError as error:
            message, _, remedy = error.reason.partition("; ")
            self.findings.add(Level.FAIL, "maps", message, remedy=remedy, place=error.file)
            return None
        self._check_map(road)
        return _Known(road)

    def _check_map(self, road: RoadMap) -> None:
        for name, layer in (("lanes", road.lanes), ("connectors", road.connectors)):
            few = [
                i
                for i, xy in zip(layer.ids, layer.baselines, strict=True)
                if _distinct(xy) < MIN_BASELINE_VERTICES
            ]
            if few:
                message = f"{name} with fewer than {MIN_BASELINE_VERTICES} baseline vertices; reactive traffic of v2 fails there"
                place = f"{road.location}, {name}: {', '.join(few[:3])}"
                self.findings.add(
                    Level.WARN,
                    "maps",
                    message,
                    remedy="none for maps as published",
                    place=place,
                    count=len(few),
                )
        empty = [
            i
            for i, s in zip(road.connectors.ids, road.connectors.shapes, strict=True)
            if s.is_empty
        ]
        if empty:
            message = "connectors without exactly one polygon in gen_lane_connectors_scaled_width_polygons"
            remedy = "the devkit fails when a route passes there; use the complete map"
            self.findings.add(
                Level.WARN,
                "maps",
                message,
                remedy=remedy,
                place=f"{road.location}: {empty[0]}",
                count=len(empty),
            )
        pairs = (("lanes", road.lanes, "connectors", road.connectors),)
        pairs += (("lane groups", road.lane_groups, "group connectors", road.group_connectors),)  # type: ignore[assignment]
        for left, a, right, b in pairs:
            if clash := sorted(set(a.ids) & set(b.ids)):
                message = f"ids are used by {left} and by {right}; routes become ambiguous"
                place = f"{road.location}: {clash[0]}"
                self.findings.add(
                    Level.FAIL,
                    "maps",
                    message,
                    remedy="give them ids of their own",
                    place=place,
                    count=len(clash),
                )


def _distinct(xy: Array) -> int:
    return len(np.unique(xy, axis=0))


class _Known:
    """What scenes are compared with, of one map."""

    def __init__(self, road: RoadMap) -> None:
        self.blocks = {*road.lane_groups.ids, *road.group_connectors.ids}
        self.connectors = set(road.connectors.ids)
        shapes = [*road.lane_groups.shapes, *road.intersections.shapes, *road.carparks.shapes]
        self._bounds = shapely.total_bounds(shapes) if shapes else np.full(4, np.nan)

    def contains(self, pose: Array, margin_m: float = 100.0) -> bool:
        x0, y0, x1, y1 = self._bounds
        return bool(
            x0 - margin_m <= pose[0] <= x1 + margin_m and y0 - margin_m <= pose[1] <= y1 + margin_m
        )
