"""The road of a town as the scorer sees it: polygons, drivable area, lanes with their limits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import shapely

from latentvla_core.pdms.roads.drivable import RADIUS_M, rings_of
from latentvla_core.pdms.state import DRIVABLE, Layer, RoadPolygons
from latentvla_core.types import Array
from latentvla_core.world.streets.layout import LayoutConfig
from latentvla_core.world.streets.network import RoadNetwork
from latentvla_core.world.streets.town import make_town


@dataclass(frozen=True, eq=False)
class Town:
    """One town, prepared for scoring."""

    network: RoadNetwork
    ids: tuple[str, ...]
    layers: Array
    """(P,) int8 `Layer`."""
    shapes: Array
    """(P,) shapely polygons, town frame."""

    @cached_property
    def tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.shapes)

    @cached_property
    def drivable(self) -> shapely.Geometry:
        """Union of everything that may be driven on."""
        return shapely.union_all(self.shapes[np.isin(self.layers, DRIVABLE)])

    def polygons_near(self, xy_m: Array, lane_ids: frozenset[str]) -> tuple[Array, RoadPolygons]:
        """(2,) whole-metre origin and the polygons within 100 m, minus it; on the route: lanes of
        `lane_ids`.
        """
        origin = np.round(xy_m)
        box = shapely.box(*(xy_m - RADIUS_M), *(xy_m + RADIUS_M))
        rows = np.sort(self.tree.query(box, predicate="intersects"))
        lanes = np.isin(self.layers[rows], (Layer.LANE, Layer.LANE_CONNECTOR))
        on_route = lanes & np.array([self.ids[k] in lane_ids for k in rows], bool)
        rings = rings_of(self.shapes[rows], origin)
        return origin, RoadPolygons(self.layers[rows], on_route, *rings)


@lru_cache(maxsize=16)
def open_town(seed: int, location: str, layout: LayoutConfig) -> Town:
    """The town of a world."""
    return town_of(make_town(seed, location, layout))


def town_of(network: RoadNetwork) -> Town:
    """A network's polygons in the layers of the drivable map."""
    lanes = list(network.lanes.values())
    parts = (
        (Layer.ROADBLOCK, [(b.id, b.outline_m) for b in network.blocks.values()]),
        (Layer.LANE, [(a.id, a.outline_m) for a in lanes if not a.is_connector]),
        (Layer.LANE_CONNECTOR, [(a.id, a.outline_m) for a in lanes if a.is_connector]),
        (Layer.INTERSECTION, [(j.id, j.outline_m) for j in network.junctions.values()]),
        (Layer.CARPARK, [(c.id, c.outline_m) for c in network.carparks]),
    )
    named = [(layer, id_, outline) for layer, rows in parts for id_, outline in rows]
    named = [row for row in named if _is_drivable(network, row[0], row[1])]
    shapes = np.array([shapely.make_valid(shapely.Polygon(o)) for _, _, o in named], object)
    plain = shapely.get_type_id(shapes) == 3  # what validity makes of a bow tie is no polygon
    shapes[~plain] = [s.buffer(0) if s.area else s for s in shapes[~plain]]
    kept = [k for k, s in enumerate(shapes) if s.geom_type == "Polygon" and s.area > 0]
    return Town(
        network,
        tuple(named[k][1] for k in kept),
        np.array([named[k][0] for k in kept], np.int8),
        shapes[kept],
    )


def _is_drivable(network: RoadNetwork, layer: Layer, id_: str) -> bool:
    """Blocks of connectors are no road of their own in nuPlan's drivable map."""
    return layer != Layer.ROADBLOCK or not network.blocks[id_].is_connector
