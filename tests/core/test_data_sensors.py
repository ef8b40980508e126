"""Pictures and point clouds: sizes, crops, damaged files, object stores."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from navsim_files import log_frames, shared, write_gpkg, write_pickle
from PIL import Image

from latentvla_core.data.cameras import decode_image, image_size, load_image, load_panorama
from latentvla_core.data.layout import DataRoot
from latentvla_core.data.lidar import FIELDS, read_pcd, write_pcd
from latentvla_core.data.map_files.maps import MapStore
from latentvla_core.data.navsim import read_log
from latentvla_core.errors import DataError, SetupError


def _picture(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], -1).astype(np.uint8))


def _jpeg(path: Path, image: Image.Image) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)
    return path.name


@pytest.mark.parametrize("size", [(1920, 1080), (640, 360), (1241, 376), (100, 400)])
def test_pictures_come_out_in_the_size_asked_for(tmp_path: Path, size: tuple[int, int]) -> None:
    name = _jpeg(tmp_path / "a.jpg", _picture(*size))
    small = load_image(str(tmp_path), name, (224, 128))
    assert (small.shape, small.dtype) == ((128, 224, 3), np.uint8)
    exact = np.asarray(_picture(*size).resize((224, 128), Image.Resampling.BICUBIC), int)
    assert np.abs(small - exact).mean() < 1.5
    assert load_image(str(tmp_path), name).shape == (size[1], size[0], 3)
    assert image_size(str(tmp_path), name) == size


def test_grey_pictures_become_rgb(tmp_path: Path) -> None:
    name = _jpeg(tmp_path / "grey.jpg", _picture(320, 200).convert("L"))
    image = load_image(str(tmp_path), name, (80, 50))
    assert image.shape == (50, 80, 3)
    assert (image[..., 0] == image[..., 2]).all()


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.95])
def test_truncated_pictures_are_named(tmp_path: Path, keep: float) -> None:
    buffer = io.BytesIO()
    _picture(640, 360).save(buffer, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[: int(keep * len(buffer.getvalue()))])
    with pytest.raises(DataError, match=r"cut\.jpg.*download"):
        load_image(str(tmp_path), "cut.jpg", (224, 128))


def test_missing_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg.*does not exist.*download"):
        load_image(str(tmp_path), "none.jpg")
    with pytest.raises(DataError, match="no picture of this camera"):
        load_image(str(tmp_path), "")


@pytest.mark.parametrize("size", [(1920, 1080), (640, 360)])
def test_the_panorama_is_transfusers_crop_at_any_picture_size(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    names = [_jpeg(tmp_path / f"{i}.jpg", _picture(*size)) for i in range(3)]
    strip = load_panorama(str(tmp_path), names, 256).astype(int)
    assert strip.shape == (256, 1024, 3)
    full = np.asarray(_picture(1920, 1080))
    parts = (full[28:-28, 416:-416], full[28:-28], full[28:-28, 416:-416])
    exact = np.concatenate(parts, axis=1)[2::4, 2::4]  # 4096 x 1024 → 1024 x 256
    assert (
        np.abs(strip - exact).max() < 12
    )  # JPEG noise; a crop off by 1 % would be 13 of 255 at the seams
    assert np.abs(strip - exact).mean() < 1.5


def test_cameras_that_do_not_exist_are_black_in_the_panorama(tmp_path: Path) -> None:
    name = _jpeg(tmp_path / "f.jpg", _picture(1920, 1080))
    strip = load_panorama(str(tmp_path), ("", name, ""), 64)
    assert strip.shape == (64, 256, 3)
    assert not strip[:, :68].any()
    assert not strip[:, -68:].any()
    assert strip[:, 68:-68].any()
    with pytest.raises(ValueError, match="multiple of 16"):
        load_panorama(str(tmp_path), ("", name, ""), 100)


@pytest.mark.slow
def test_pictures_and_folders_of_an_object_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("s3fs")
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    from latentvla_core.data.files import exists, list_dir, remote_keys

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        keys = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "t",
            "AWS_SECRET_ACCESS_KEY": "t",
        }
        for key, value in (
            keys | {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
        ).items():
            monkeypatch.setenv(key, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="blobs")
        _jpeg(tmp_path / "a.jpg", _picture(320, 180))
        client.upload_file(str(tmp_path / "a.jpg"), "blobs", "mini/log/CAM_F0/a.jpg")
        image = load_image("s3://blobs/mini", "log/CAM_F0/a.jpg", (64, 36))
        np.testing.assert_array_equal(image, load_image(str(tmp_path), "a.jpg", (64, 36)))
        assert list_dir("s3://blobs/mini/log/CAM_F0") == ["s3://blobs/mini/log/CAM_F0/a.jpg"]
        assert list_dir("s3://blobs/nothing") == []
        assert exists("s3://blobs/mini/log/CAM_F0/a.jpg")
        before = remote_keys("s3://blobs/mini/log")
        assert list(before) == ["CAM_F0/a.jpg"]
        client.upload_file(str(tmp_path / "a.jpg"), "blobs", "mini/log/CAM_F0/a.jpg")
        assert remote_keys("s3://blobs/mini/log/") == before
        client.put_object(Bucket="blobs", Key="mini/log/CAM_F0/a.jpg", Body=b"x" * 9)
        assert remote_keys("s3://blobs/mini/log")["CAM_F0/a.jpg"].startswith("9-")
        client.upload_file(str(tmp_path / "a.jpg"), "blobs", "mini/log/CAM_F0/a.jpg")
        assert remote_keys("s3://blobs/mini/log") == before
        assert remote_keys("s3://blobs/nothing") == {}
        _check_a_tree_in_the_store(client, tmp_path)
        with pytest.raises(DataError, match="does not exist"):
            load_image("s3://blobs/mini", "log/CAM_F0/b.jpg")
    finally:
        server.stop()


def test_a_store_without_credentials_is_a_setup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = pytest.importorskip("botocore.exceptions")

    class Store:
        def cat_file(self, _: str) -> bytes:
            raise errors.NoCredentialsError

    monkeypatch.setattr("latentvla_core.data.files.filesystem", lambda _: Store())
    with pytest.raises(
        SetupError, match=r"s3://blobs/a\.jpg.*Unable to locate credentials.*AWS_SECRET_ACCESS_KEY"
    ):
        load_image("s3://blobs", "a.jpg")


def _check_a_tree_in_the_store(client: Any, tmp_path: Path) -> None:
    """Logs and maps below an s3:// root read like those in a folder."""
    write_pickle(tmp_path / "log.pkl", log_frames(3))
    client.upload_file(str(tmp_path / "log.pkl"), "blobs", "tree/navsim_logs/mini/2021.05.pkl")
    index = {"us-ma-boston": {"version": "9.12.1817", "layers": {}}}
    client.put_object(
        Bucket="blobs", Key="tree/maps/nuplan-maps-v1.0.json", Body=json.dumps(index).encode()
    )
    square = shapely.box(331_000, 4_690_000, 331_050, 4_690_050)
    gpkg = write_gpkg(tmp_path / "map.gpkg", {"lane_groups_polygons": [(101, square, ())]})
    client.upload_file(str(gpkg), "blobs", "tree/maps/us-ma-boston/9.12.1817/map.gpkg")
    data = DataRoot.find("s3://blobs/tree")
    assert data.splits() == ["mini"]
    (log,) = data.logs("mini")
    assert [frame.frame_idx for frame in read_log(log)] == [0, 1, 2]
    assert data.maps_root() == "s3://blobs/tree/maps"
    road = MapStore(data.maps_root()).get("us-ma-boston")
    assert road.lane_groups.shapes[0].equals(square)


def test_point_clouds_survive_writing_and_reading(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(3, 50)) * 30, rng.integers(0, 256, (3, 50))]).astype(
        np.float32
    )
    write_pcd(tmp_path / "a/b.pcd", points)
    np.testing.assert_array_equal(read_pcd(tmp_path / "a/b.pcd"), points)
    assert read_pcd(tmp_path / "a/b.pcd").dtype == np.float32
    write_pcd(tmp_path / "empty.pcd", np.zeros((6, 0)))
    assert read_pcd(tmp_path / "empty.pcd").shape == (6, 0)


def _pcd(**changes: str) -> bytes:
    lines = {
        "VERSION": "0.7",
        "FIELDS": " ".join(FIELDS),
        "SIZE": "4 4 4 1 1 1",
        "TYPE": "F F F U U U",
    }
    lines |= {
        "COUNT": "1 1 1 1 1 1",
        "WIDTH": "1",
        "HEIGHT": "1",
        "VIEWPOINT": "0 0 0 1 0 0 0",
        "POINTS": "1",
    }
    lines |= {"DATA": "binary"} | changes
    head = "# comment\n" + "".join(f"{key} {value}\n" for key, value in lines.items() if value)
    return head.encode() + np.array([1, 2, 3], "<f4").tobytes() + bytes([4, 5, 6])


def test_point_fields_are_found_by_name_whatever_their_order_and_size(tmp_path: Path) -> None:
    (tmp_path / "a.pcd").write_bytes(_pcd() + b"trailing bytes")
    assert read_pcd(tmp_path / "a.pcd")[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    head = _pcd(
        FIELDS="ring x extra y z intensity lidar_info", SIZE="2 8 1 4 4 4 1", TYPE="I F U F F F U"
    )
    record = [
        ("r", "<i2"),
        ("x", "<f8"),
        ("e", "u1"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("i", "<f4"),
        ("l", "u1"),
    ]
    body = np.array([(5, 1, 99, 2, 3, 4, 6)], record).tobytes()
    (tmp_path / "b.pcd").write_bytes(
        head[:-15].replace(b"COUNT 1 1 1 1 1 1\n", b"COUNT 1 1 1 1 1 1 1\n") + body
    )
    assert read_pcd(tmp_path / "b.pcd")[:, 0].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (_pcd()[:-1], "0 of 1 points"),
        (_pcd(POINTS="9"), "1 of 9 points"),
        (_pcd(POINTS="many"), "not understood"),
        (_pcd(DATA="ascii"), "only binary"),
        (_pcd(TYPE="F F F U U"), "not understood"),
        (_pcd(TYPE="F F F U U Q"), "not understood"),
        (_pcd(COUNT="1 1 1 1 1 2"), "only 1 is read"),
        (_pcd(FIELDS="x y z intensity ring time"), "no field lidar_info"),
        (_pcd(VIEWPOINT=""), "lacks VIEWPOINT"),
        (b"", "no PCD header"),
        (b"\x00" * 9000, "no PCD header"),
    ],
)
def test_damaged_point_clouds_are_named(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "bad.pcd").write_bytes(data)
    with pytest.raises(DataError, match=rf"bad\.pcd.*{says}"):
        read_pcd(tmp_path / "bad.pcd")


def test_points_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(6, n\)"):
        write_pcd(tmp_path / "a.pcd", np.zeros((4, 3)))
    with pytest.raises(ValueError, match="255"):
        write_pcd(tmp_path / "a.pcd", np.full((6, 1), 300.0))


def test_real_pictures_decode() -> None:
    five = shared("real/navsim_five_frames")
    strip = load_panorama(str(five), [f"000000_CAM_{c}.jpg" for c in ("L0", "F0", "R0")], 256)
    assert strip.shape == (256, 1024, 3)
    assert 40 < strip.mean() < 215
    front = load_image(str(five), "000000_CAM_F0.jpg", (480, 270)).astype(int)
    middle = strip[:, 272:752].astype(int)
    assert (
        np.abs(middle - front[7:263]).mean() < 3
    )  # the middle part is the front picture without its top and bottom


def test_a_real_lidar_sweep_survives_our_format(tmp_path: Path) -> None:
    real = shared("real/navsim_sample_8bc34517e08758ff")
    points = np.load(real / "lidar.npz")["points"].astype(np.float32).T  # (4, n)
    write_pcd(
        tmp_path / "real.pcd", np.concatenate([points, np.zeros((2, points.shape[1]), np.float32)])
    )
    np.testing.assert_array_equal(
        read_pcd(tmp_path / "real.pcd")[:4], np.concatenate([points[:3], points[3:].round()])
    )


def test_decoding_from_memory_equals_decoding_from_disk(tmp_path: Path) -> None:
    name = _jpeg(tmp_path / "a.jpg", _picture(320, 180))
    data = (tmp_path / name).read_bytes()
    np.testing.assert_array_equal(
        decode_image(data, (64, 36)), load_image(str(tmp_path), name, (64, 36))
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_point_at_no_place_is_refused_by_its_number(tmp_path: Path, bad: float):
    points = np.ones((6, 5))
    points[1, 3] = bad
    write_pcd(tmp_path / "cloud.pcd", points)
    with pytest.raises(DataError, match=r"cloud\.pcd, field x y z: point 3 has a position that is"):
        read_pcd(tmp_path / "cloud.pcd")
