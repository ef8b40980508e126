"""The renderer shows what is there: projection, lamps, lights, sides, determinism, and both back
ends agree.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latentvla_core.types import ObjectClass
from latentvla_core.world.noise import HAVE_NUMBA
from latentvla_core.world.sensors.calibration import (
    FULL_SIZE_WH,
    camera_rig,
    project,
    scaled_intrinsics,
)
from latentvla_core.world.sensors.render import RenderConfig, Renderer
from latentvla_core.world.showcase import crossing, moment
from latentvla_core.world.state import Actor, Scenery, Snapshot

SIZE = (224, 126)


def lawn() -> Scenery:
    """Nothing but grass at noon in clear air."""
    return Scenery((), (), (), (), np.radians(60.0), 0.0, 0.0)


def alone(*actors: Actor, yaw: float = 0.0, time_s: float = 0.0) -> Snapshot:
    return Snapshot(time_s, np.array([10.0, 20.0, yaw]), actors, {})


def car(
    x_m: float,
    y_m: float,
    *,
    brake: bool = False,
    indicator="off",
    rgb=(40, 40, 160),
    yaw: float = 0.0,
) -> Actor:
    """A car at a place relative to the ego at (10, 20)."""
    pose = np.array([10.0 + x_m, 20.0 + y_m, yaw])
    return Actor(
        "car", ObjectClass.VEHICLE, pose, (4.6, 1.9, 1.5), np.zeros(2), brake, indicator, rgb
    )


def box(x_m: float, y_m: float, size=(0.3, 0.3, 0.3), yaw: float = 0.0) -> Actor:
    """A magenta box at a place relative to the ego at (10, 20)."""
    pose = np.array([10.0 + x_m, 20.0 + y_m, yaw])
    return Actor(
        "box", ObjectClass.GENERIC_OBJECT, pose, size, np.zeros(2), False, "off", (250, 0, 250)
    )


@pytest.fixture(scope="module")
def plain() -> Renderer:
    return Renderer(lawn(), camera_rig(SIZE), SIZE)


@pytest.fixture(scope="module")
def town() -> Renderer:
    return Renderer(crossing(), camera_rig(SIZE), SIZE)


def reds(picture: np.ndarray) -> np.ndarray:
    """(H, W) pixels as red as a lamp."""
    r, g, b = np.moveaxis(picture.astype(int), -1, 0)
    return (r > 200) & (g < 90) & (b < 90)


def pinhole(point_ego: np.ndarray, camera) -> np.ndarray:
    """The camera equation once more, written out with homogeneous matrices."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = camera.rotation, camera.translation_m
    x, y, z, _ = np.linalg.inv(pose) @ np.append(point_ego, 1.0)
    k = camera.intrinsics_px
    return np.array([k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]])


def test_rig_is_rotations_and_scales_with_the_picture():
    rig = camera_rig()
    assert len(rig) == 8
    for camera in rig.values():
        np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(camera.rotation) == pytest.approx(1.0)
    half = scaled_intrinsics((FULL_SIZE_WH[0] // 2, FULL_SIZE_WH[1] // 2))
    np.testing.assert_allclose(half[:2], rig["CAM_F0"].intrinsics_px[:2] / 2)


def test_rig_looks_where_the_real_one_does():
    front, left, back = (camera_rig()[n].rotation[:, 2] for n in ("CAM_F0", "CAM_L0", "CAM_B0"))
    assert front[0] > 0.99
    assert abs(front[1]) < 0.01
    assert -0.06 < front[2] < -0.02
    np.testing.assert_allclose(left, [0.568, 0.822, -0.030], atol=0.01)  # real frame
    assert back[0] < -0.99


@pytest.mark.parametrize("name", ["CAM_F0", "CAM_L0", "CAM_R1", "CAM_B0"])
def test_projection_agrees_with_the_pinhole_equation(name):
    camera = camera_rig(SIZE)[name]
    point = camera.translation_m + camera.rotation @ np.array([0.8, -0.3, 12.0])
    pixel, depth = project(point, camera)
    np.testing.assert_allclose(pixel, pinhole(point, camera))
    assert depth == pytest.approx(12.0)


@pytest.mark.parametrize(("x_m", "y_m"), [(9.0, 0.0), (14.0, 3.5), (20.0, -6.0)])
@pytest.mark.parametrize("yaw", [0.0, 0.7])
def test_a_small_box_is_drawn_where_the_pinhole_puts_it(plain, x_m, y_m, yaw):
    c, s = np.cos(yaw), np.sin(yaw)
    magenta = box(c * x_m - s * y_m, s * x_m + c * y_m, (0.8, 0.8, 0.8), yaw)
    r, g, b = np.moveaxis(plain.render(alone(magenta, yaw=yaw), "CAM_F0").astype(int), -1, 0)
    rows, columns = np.nonzero((r > g + 30) & (b > g + 30))
    ring = np.array([[a, b, c] for a in (-0.4, 0.4) for b in (-0.4, 0.4) for c in (0.0, 0.8)]) + [
        x_m,
        y_m,
        0.0,
    ]
    corners = np.array([pinhole(corner, plain.rig["CAM_F0"]) for corner in ring])
    np.testing.assert_allclose([columns.min(), rows.min()], corners.min(axis=0), atol=1.0)
    np.testing.assert_allclose([columns.max() + 1, rows.max() + 1], corners.max(axis=0), atol=1.0)


def test_brake_lights_of_the_car_ahead(plain):
    on = plain.render(alone(car(9.0, 0.0, brake=True)), "CAM_F0")
    off = plain.render(alone(car(9.0, 0.0)), "CAM_F0")
    assert reds(on).sum() >= 20
    assert reds(off).sum() == 0
    columns = np.nonzero(reds(on).any(axis=0))[0]
    assert columns.min() < SIZE[0] / 2 - 5  # a lamp on either side
    assert columns.max() > SIZE[0] / 2 + 5


def test_left_indicator_blinks_amber_on_the_left(plain):
    def amber(time_s: float) -> np.ndarray:
        picture = plain.render(
            alone(car(9.0, 0.0, indicator="left"), time_s=time_s), "CAM_F0"
        ).astype(int)
        return (picture[..., 0] > 200) & (abs(picture[..., 1] - 158) < 45) & (picture[..., 2] < 70)

    counts = [amber(t).sum() for t in np.arange(0.0, 0.7, 0.1)]
    assert max(counts) >= 4
    assert min(counts) == 0
    lit = amber(float(np.arange(0.0, 0.7, 0.1)[int(np.argmax(counts))]))
    assert np.nonzero(lit.any(axis=0))[0].max() < SIZE[0] / 2


def test_traffic_light_turns_from_red_to_green(town):
    signal = town.scenery.signals[0]
    shot = moment(-25.0, light="red", lead_gap_m=60.0)
    lamp = np.array(
        [
            signal.pose[0] - shot.ego_pose[0],
            signal.pose[1] - shot.ego_pose[1],
            signal.height_m + 0.44,
        ]
    )
    (u, v), depth = project(lamp, town.rig["CAM_F0"])
    assert depth > 0
    red = town.render(shot, "CAM_F0")[int(v), int(u)].astype(int)
    assert red[0] > red[1] + 60  # the upper lamp burns red
    green_picture = town.render(replace(shot, lights=dict.fromkeys(shot.lights, "green")), "CAM_F0")
    (u, v), _ = project(lamp - [0, 0, 0.88], town.rig["CAM_F0"])
    green = green_picture[int(v), int(u)].astype(int)
    assert green[1] > green[0] + 60
    assert green_picture[int(v) - 4, int(u)].max() < 120  # and the red one is dark


def test_cameras_see_their_own_side(plain):
    def difference(y_m: float, camera: str) -> int:
        changed = plain.render(alone(car(3.0, y_m)), camera).astype(int) - plain.render(
            alone(), camera
        )
        return int((np.abs(changed).max(axis=-1) > 25).sum())

    assert difference(7.0, "CAM_L0") > 100
    assert difference(7.0, "CAM_R0") == 0
    assert difference(-7.0, "CAM_R0") > 100
    assert difference(-7.0, "CAM_L0") == 0


def test_left_in_the_world_is_left_in_the_picture(plain):
    changed = np.abs(
        plain.render(alone(car(12.0, 3.0)), "CAM_F0").astype(int) - plain.render(alone(), "CAM_F0")
    )
    assert np.nonzero((changed.max(axis=-1) > 25).any(axis=0))[0].mean() < SIZE[0] / 2 - 10


def test_near_things_hide_far_ones(plain):
    both = plain.render(
        alone(car(9.0, 0.0, rgb=(20, 20, 200)), box(16.0, 0.0, (0.8, 0.8, 0.8))), "CAM_F0"
    )
    only = plain.render(alone(car(9.0, 0.0, rgb=(20, 20, 200))), "CAM_F0")
    assert np.abs(both.astype(int) - only).max(axis=-1)[: SIZE[1] // 2].sum() == 0


def test_lane_marks_are_bright_where_the_map_has_them(town):
    ego = np.array([-60.0, -5.25, 0.0])
    picture = town.render(Snapshot(0.0, ego, (), {}), "CAM_F0").astype(int)

    def brightness(y_m: float) -> float:
        points = np.stack([np.linspace(8.0, 11.0, 20), np.full(20, y_m), np.zeros(20)], axis=1)
        pixels, _ = project(points, town.rig["CAM_F0"])
        return picture[pixels[:, 1].astype(int), pixels[:, 0].astype(int)].mean()

    edge_line = -7.0 + 0.35 - ego[1]
    assert brightness(edge_line) > brightness(edge_line + 0.6) + 25


def test_same_arguments_same_bytes_in_any_order(town):
    first = [town.render(moment(x), "CAM_F0") for x in (-60.0, -30.0)]
    fresh = Renderer(crossing(), camera_rig(SIZE), SIZE)
    second = [fresh.render(moment(x), "CAM_F0") for x in (-30.0, -60.0)][::-1]
    for a, b in zip(first, second, strict=True):
        assert a.dtype == np.uint8
        assert a.shape == (SIZE[1], SIZE[0], 3)
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.skipif(not HAVE_NUMBA, reason="numba is not installed")
def test_numpy_twin_draws_the_same_picture():
    size = (80, 45)
    whole = crossing(sun_elevation_deg=3.0)  # low sun: both shadows and lit windows
    scenery = replace(whole, props=whole.props[::5], stripes=whole.stripes[::3])
    fast, slow = (
        Renderer(scenery, camera_rig(size), size, RenderConfig(use_numba=use))
        for use in (True, False)
    )
    difference = np.abs(
        fast.render(moment(), "CAM_F0").astype(int) - slow.render(moment(), "CAM_F0")
    )
    assert (difference.max(axis=-1) > 2).mean() < 0.002


def test_dusk_is_darker_and_lights_the_tail_lamps():
    dusk = Renderer(replace(lawn(), sun_elevation_rad=np.radians(-6.0)), camera_rig(SIZE), SIZE)
    noon = Renderer(lawn(), camera_rig(SIZE), SIZE)
    shot = alone(car(8.0, 0.0))
    dark, bright = (r.render(shot, "CAM_F0").astype(int) for r in (dusk, noon))
    assert dark.mean() < 0.8 * bright.mean()
    red = (dark[..., 0] > 130) & (dark[..., 1:].max(axis=-1) < 50)
    assert red.sum() >= 20


def test_wrong_rig_or_camera_is_refused():
    with pytest.raises(ValueError, match="make the rig for this size"):
        Renderer(lawn(), camera_rig(), SIZE)
    with pytest.raises(ValueError, match="not in the rig"):
        Renderer(lawn(), camera_rig(SIZE), SIZE).render(alone(), "CAM_X0")
    with pytest.raises(ValueError, match="samples is 9"):
        RenderConfig(samples=9)
