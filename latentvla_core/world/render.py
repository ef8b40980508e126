"""Pictures of the world as the ego's cameras see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.geometry import rotate
from latentvla_core.types import Array, Camera
from latentvla_core.world import backdrop, raster, shading
from latentvla_core.world.ground import GroundTexture
from latentvla_core.world.noise import HAVE_NUMBA
from latentvla_core.world.palette import swept_shadow
from latentvla_core.world.sky import PANORAMA_COLUMNS, daylight, panorama
from latentvla_core.world.staging import Stage, footprints
from latentvla_core.world.state import Scenery, Snapshot

SHADOW_RANGE_M = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderConfig:
    """How carefully pictures are drawn."""

    samples: int = 2
    """Samples per pixel side for the edges of objects; the ground is filtered by itself."""
    use_numba: bool | None = None
    """None = if installed. The NumPy twin gives the same picture up to rounding, some thirty times slower."""

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= 4:
            raise ValueError(f"samples is {self.samples}; must be 1 to 4 (2 smooths edges well)")
        if self.use_numba and not HAVE_NUMBA:
            raise ValueError(
                "use_numba is True, but numba is not installed; install latentvla[fast] or leave it at None"
            )


class Renderer:
    """Draws snapshots of one scenery. Deterministic: the same arguments give the same bytes, in any order of calls."""

    def __init__(
        self, scenery: Scenery, rig: dict[str, Camera], size_wh: tuple[int, int], config: RenderConfig | None = None
    ) -> None:
        self.scenery, self.rig, self.size_wh = scenery, rig, size_wh
        self.config = config or RenderConfig()
        _check_rig(rig, size_wh)
        self._numba = HAVE_NUMBA if self.config.use_numba is None else self.config.use_numba
        self.light = daylight(scenery.sun_elevation_rad, scenery.sun_azimuth_rad)
        self._ground = GroundTexture(scenery, self.light, use_numba=self._numba)
        self._sky = panorama(self.light, scenery.haze_per_m)
        self._stage = Stage(scenery, night=self.light.night > 0.5)
        self._views: dict[str, backdrop.View] = {}
        width, height = size_wh
        fine = (height * self.config.samples, width * self.config.samples)
        self._depth, self._face = np.empty(fine, np.float32), np.empty(fine, np.int32)
        self._back = np.empty((height, width, 3), np.float32)

    def render(self, snapshot: Snapshot, camera_name: str) -> Array:
        """(H, W, 3) uint8 RGB picture of one camera."""
        camera = self._camera(camera_name)
        if camera_name not in self._views:
            self._views[camera_name] = backdrop.make_view(camera, self.size_wh)
        view = self._views[camera_name]
        ego_pose = np.asarray(snapshot.ego_pose, float)
        self._draw_backdrop(view, ego_pose)
        self._draw_shadows(view, camera, snapshot, ego_pose)
        return self._draw_objects(view, camera, snapshot, ego_pose)

    def _camera(self, name: str) -> Camera:
        if name not in self.rig:
            raise ValueError(f"camera {name!r} is not in the rig; choose one of {', '.join(self.rig)}")
        return self.rig[name]

    def _draw_backdrop(self, view: backdrop.View, ego_pose: Array) -> None:
        ground, out = self._ground, self._back.reshape(-1, 3)
        backdrop.ensure_tiles(ground, view, ego_pose)
        sample = backdrop.sample_ground_numba if self._numba else backdrop.sample_ground_numpy
        sample(
            out, view.ground_index, view.ground_xy_m, view.footprint_m, view.level, view.samples, ego_pose,
            ground.pages, ground.page_offsets, ground.shape, ground.texels_m, ground.origin_m, ground.pool, ground.flat_rgb,
        )  # fmt: skip
        turn = ego_pose[2] * (PANORAMA_COLUMNS / (2 * np.pi))
        sky = backdrop.sample_sky_numba if self._numba else backdrop.sample_sky_numpy
        sky(out, view.sky_index, view.sky_azimuth, view.sky_row, turn, self._sky)

    def _draw_shadows(self, view: backdrop.View, camera: Camera, snapshot: Snapshot, ego_pose: Array) -> None:
        """Contact shadows under road users, and the shadows the sun casts from them."""
        light = self.light
        sun = light.sun_gain * max(light.sun_direction[2], 0.0)
        in_sun_shadow = 1 - 0.88 * sun / (light.ambient_gain + sun)
        for corners, height in footprints(snapshot, ego_pose[:2], SHADOW_RANGE_M):
            if light.sun_direction[2] > 0.03:
                cast = swept_shadow(corners, 0.0, height, light.sun_direction)
                self._darken(view, camera, _to_ego(cast, ego_pose), 0.12, in_sun_shadow)
            self._darken(view, camera, _to_ego(corners, ego_pose), 0.5, np.full(3, 0.42))

    def _darken(self, view: backdrop.View, camera: Camera, outline: Array, softness: float, gain: Array) -> None:
        window = raster.picture_window(outline, softness, camera, self.size_wh)
        if window[1] > window[0] and window[3] > window[2]:
            run = backdrop.darken_numba if self._numba else backdrop.darken_numpy
            run(self._back, view.field_xy_m, window, _outward_lines(outline), softness, gain)

    def _draw_objects(self, view: backdrop.View, camera: Camera, snapshot: Snapshot, ego_pose: Array) -> Array:
        rotation, position = raster.world_camera(camera, ego_pose)
        mesh = self._stage.faces(snapshot, position, rotation[:, 2], view.half_angle_rad)
        faces = raster.project_faces(mesh, camera, ego_pose, self.light, self.size_wh)
        self._depth.fill(0.0)
        self._face.fill(-1)
        fill = raster.fill_numba if self._numba else raster.fill_numpy
        fill(faces.polygon_px, faces.counts, faces.plane, self.config.samples, self._depth, self._face)
        k = camera.intrinsics_px
        up = rotation.T @ np.array([0.0, 0.0, 1.0])
        sun = np.concatenate([rotation.T @ self.light.sun_direction, up])
        picture = np.empty((*self._back.shape[:2], 3), np.uint8)
        resolve = shading.resolve_numba if self._numba else shading.resolve_numpy
        resolve(
            picture, self._back, view.distance_m, view.head_lamps * self.light.night, self._face, self.config.samples,
            faces.plane, faces.lit, faces.extra, faces.axes, faces.size, faces.shader, faces.seed,
            np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]]), sun, float(self.scenery.haze_per_m), self.light.horizon_rgb,
            self.light.night,
        )  # fmt: skip
        return picture


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


def _to_ego(points_m: Array, ego_pose: Array) -> Array:
    return rotate(points_m - ego_pose[:2], -ego_pose[2])


def _outward_lines(outline: Array) -> Array:
    """(n, 3) outward normals and offsets of a convex outline (n, 2) of either orientation."""
    edge = np.roll(outline, -1, axis=0) - outline
    normal = np.stack([edge[:, 1], -edge[:, 0]], axis=1) / np.maximum(np.linalg.norm(edge, axis=1), 1e-9)[:, None]
    offset = (normal * outline).sum(axis=1)
    inward = (normal @ outline.mean(axis=0) - offset).sum() > 0
    return np.concatenate([normal, offset[:, None]], axis=1) * (-1.0 if inward else 1.0)
