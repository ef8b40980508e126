"""What the ego's cameras see: pictures drawn at plan times only, one scenery per scene."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from latentvla_core.closed_loop.scenes.spec import SceneSpec
from latentvla_core.types import Array, Camera
from latentvla_core.world.sensors.calibration import camera_rig
from latentvla_core.world.state import Snapshot
from latentvla_core.world.streets.network import RoadNetwork
from latentvla_core.world.streets.town import make_town, town_props

if TYPE_CHECKING:
    from latentvla_core.world.sensors.render import Renderer


@dataclass(slots=True)
class Eyes:
    """Some cameras of the rig. None: nothing is drawn."""

    names: tuple[str, ...] = ()
    picture_wh: tuple[int, int] = (448, 252)
    rig: dict[str, Camera] = field(default_factory=dict)
    _renderer: Renderer | None = None

    def open(self, spec: SceneSpec, network: RoadNetwork) -> None:
        """Ready for a scene."""
        self.rig = {n: c for n, c in camera_rig(self.picture_wh).items() if n in self.names}
        self._renderer = renderer_of(spec, self.picture_wh) if self.names else None

    def look(self, seen: Snapshot, ego_pose: Array) -> dict[str, Array]:
        """Camera → (H, W, 3) uint8 pictures of a snapshot from the ego's pose (3,)."""
        if self._renderer is None:
            return {}
        here = Snapshot(seen.time_s, np.asarray(ego_pose, float), seen.actors, seen.lights)
        return {name: self._renderer.render(here, name) for name in self.names}


@lru_cache(maxsize=2)
def renderer_of(spec: SceneSpec, picture_wh: tuple[int, int]) -> Renderer:
    """The renderer of a scene: its town under the light of its own day."""
    from latentvla_core.world.sensors.render import Renderer
    from latentvla_core.world.shapes.scenery import make_scenery

    network = make_town(spec.world_seed, spec.location, spec.layout)
    props = town_props(spec.world_seed, spec.location, spec.layout)
    rng = np.random.default_rng([spec.world_seed, 6, crc32(spec.token.encode())])
    return Renderer(make_scenery(network, props, rng), camera_rig(picture_wh), picture_wh)
