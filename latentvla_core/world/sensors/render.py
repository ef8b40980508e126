"""Pictures of the world as the ego's cameras see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.geometry import rotate
from latentvla_core.types import Array, Camera
from latentvla_core.world.noise import HAVE_NUMBA
from latentvla_core.world.sensors import backdrop, project, raster, shading, shadows
from latentvla_core.world.sensors.ground import GroundTexture
from latentvla_core.world.sensors.sky import PANORAMA_COLUMNS, daylight, panorama
from latentvla_core.world.sensors.staging import Stage, footprints
from latentvla_core.world.state import Scenery, Snapshot

SHADOW_RANGE_M = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderConfig:
    """How carefully pictures are drawn."""

    samples: int = 2
    """Samples per pixel side for the edges of objects; the ground is filtered by itself."""
    use_numba: bool | None = None
    """None = if installed. The NumPy twin gives the same picture up to rounding, some thirty times
    slower.
    """

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= 4:
            raise ValueError(f"samples is {self.samples}; must be 1 to 4 (2 smooths edges well)")
        if self.use_numba and not HAVE_NUMBA:
            raise ValueError(
                "use_numba is True, but numba is not installed; install latentvla[fast] or leave it at None"
            )


class Renderer:
    """Draws snapshots of one scenery. Deterministic: the same arguments give the same bytes, in any
    order of calls.
    """

    def __init__(
        self,
        scenery: Scenery,
        rig: dict[str, Camera],
        size_wh: tuple[int, int],
        config: RenderConfig | None = None,
    ) -> None:
        self.scenery, self.rig, self.size_wh = scenery, rig, size_wh
        self.config = config or RenderConfig()
        _check_rig(rig, size_wh)
        self._numba = HAVE_NUMBA if self.config.use_numba is None else self.config.use_numba
        self.light = daylight(scenery.sun_elevation_rad, scenery.sun_azimuth_rad)
        self._ground = GroundTexture(scenery, self.light, use_numba=self._numba)
        self._sky = panorama(self.light, scenery.haze_per_m)
        self._stage = Stage(scenery, night=self.light.night > 0.5)
        self._leaves = shading.leaf_texture()
        self._views: dict[str, backdrop.View] = {}
        self._air: dict[str, tuple[Array, Array]] = {}
        width, height = size_wh
        fine = (height * self.config.samples, width * self.config.samples)
        self._depth, self._face = np.empty(fine, np.float32), np.empty(fine, np.int32)
        self._back = np.zeros((height, width, 3), np.float32)

    def render(self, snapshot: Snapshot, camera_name: str) -> Array:
        """(H, W, 3) uint8 RGB picture of one camera."""
        camera = self._camera(camera_name)
        view = self._view(camera_name)
        ego_pose = np.asarray(snapshot.ego_pose, float)
        faces = self._fill_objects(view, camera, snapshot, ego_pose)
        self._draw_backdrop(view, ego_pose)
        self._draw_shadows(camera_name, camera, snapshot, ego_pose)
        return self._shade(camera, ego_pose, faces)

    def _view(self, name: str) -> backdrop.View:
        """What depends on the camera and the day alone, made at the camera's first picture."""
        if name not in self._views:
            view = self._views[name] = backdrop.make_view(self._camera(name), self.size_wh)
            haze = 1.0 - np.exp(-self.scenery.haze_per_m * view.distance_m)
            self._air[name] = haze, 1.0 + self.light.night * view.head_lamps
        return self._views[name]

    def _camera(self, name: str) -> Camera:
        if name not in self.rig:
            raise ValueError(
                f"camera {name!r} is not in the rig; choose one of {', '.join(self.rig)}"
            )
        return self.rig[name]

    def _draw_backdrop(self, view: backdrop.View, ego_pose: Array) -> None:
        ground, out = self._ground, self._back.reshape(-1, 3)
        n = self.config.samples
        hidden = (backdrop.hidden_numba if self._numba else backdrop.hidden_numpy)(self._face, n)
        backdrop.ensure_tiles(ground, view, ego_pose)
        sample = backdrop.sample_ground_numba if self._numba else backdrop.sample_ground_numpy
        sample(
            out,
            hidden,
            view.ground_index,
            view.ground_xy_m,
            view.footprint_m,
            view.level,
            view.samples,
            ego_pose,
            ground.pages,
            ground.page_offsets,
            ground.shape,
            ground.texels_m,
            ground.origin_m,
            ground.pool,
            ground.flat_rgb,
        )
        turn = ego_pose[2] * (PANORAMA_COLUMNS / (2 * np.pi))
        sky = backdrop.sample_sky_numba if self._numba else backdrop.sample_sky_numpy
        sky(out, hidden, view.sky_index, view.sky_azimuth, view.sky_row, turn, self._sky)

    def _draw_shadows(self, name: str, camera: Camera, snapshot: Snapshot, ego_pose: Array) -> None:
        """Contact shadows under road users, the shadows the sun casts from them, and the haze
        before the ground.
        """
        view = self._view(name)
        corners, heights = footprints(self._stage.actors_near(snapshot, ego_pose, SHADOW_RANGE_M))
        local = rotate(corners - ego_pose[:2], -ego_pose[2])
        points, lines, softness, gain = shadows.cast_shadows(
            local, heights, self.light, ego_pose[2]
        )
        windows = shadows.picture_windows(points, softness, camera, self.size_wh)
        darken = shadows.darken_numba if self._numba else shadows.darken_numpy
        darken(self._back, view.field_xy_m, windows, lines, softness, gain)
        veil = backdrop.veil_numba if self._numba else backdrop.veil_numpy
        veil(self._back.reshape(-1, 3), view.ground_index, *self._air[name], self.light.horizon_rgb)

    def _fill_objects(
        self, view: backdrop.View, camera: Camera, snapshot: Snapshot, ego_pose: Array
    ) -> project.Projected:
        """Find the nearest face of every sample; first, because what objects hide need not be
        looked up on the ground.
        """
        rotation, position = project.world_camera(camera, ego_pose)
        parts = self._stage.faces(snapshot, position, rotation[:, 2], view.half_angle_rad)
        haze = float(self.scenery.haze_per_m)
        faces = project.project_faces(
            parts, camera, ego_pose, self.light, haze, self.size_wh, self._numba
        )
        self._depth.fill(0.0)
        self._face.fill(-1)
        fill = raster.fill_numba if self._numba else raster.fill_numpy
        fill(
            faces.polygon_px,
            faces.counts,
            faces.geometry,
            faces.shader,
            faces.seed,
            faces.order,
            self._leaves,
            _focal(camera),
            self.config.samples,
            self._depth,
            self._face,
        )
        return faces

    def _shade(self, camera: Camera, ego_pose: Array, faces: project.Projected) -> Array:
        """Colour the faces and blend them over the backdrop."""
        rotation, _ = project.world_camera(camera, ego_pose)
        sun = np.concatenate(
            [rotation.T @ self.light.sun_direction, rotation.T @ np.array([0.0, 0.0, 1.0])]
        )
        picture = np.empty(self._back.shape, np.uint8)
        resolve = shading.resolve_numba if self._numba else shading.resolve_numpy
        resolve(
            picture,
            self._back,
            self._face,
            self.config.samples,
            faces.geometry,
            faces.colours,
            faces.shader,
            faces.seed,
            _focal(camera),
            sun,
            self._leaves,
            float(self.scenery.haze_per_m),
            self.light.horizon_rgb,
            self.light.night,
        )
        return picture


def _focal(camera: Camera) -> Array:
    """(4,) fx, fy, cx, cy in pixels."""
    k = camera.intrinsics_px
    return np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])


def _check_rig(rig: dict[str, Camera], size_wh: tuple[int, int]) -> None:
    """A rig made for another picture size would draw a plausible but wrong picture."""
    for name, camera in rig.items():
        centre = camera.intrinsics_px[:2, 2] / size_wh
        if not ((centre > 0.25) & (centre < 0.75)).all():
            raise ValueError(
                f"{name}: principal point {camera.intrinsics_px[:2, 2]} px is not near the middle of a {size_wh[0]} x {size_wh[1]} "
                "picture; make the rig for this size: camera_rig(size_wh)"
            )
        if np.any(camera.distortion):
            raise ValueError(
                f"{name}: distortion {camera.distortion} is not zero; the renderer draws ideal pinhole pictures"
            )
