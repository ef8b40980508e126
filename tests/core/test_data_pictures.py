"""Pictures as cameras and tools write them: depth, rotation, formats, size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentvla_core.data.cameras import MOST_PIXELS, decode_image, image_size, load_image
from latentvla_core.errors import DataError

RAMP = np.linspace(0, 1, 64 * 36).reshape(36, 64)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_grey_pictures_of_more_bits_are_scaled_by_their_depth(tmp_path: Path, bits: int):
    Image.fromarray((RAMP * ((1 << bits) - 1)).astype(np.uint16)).save(tmp_path / "a.png")
    found = load_image(str(tmp_path), "a.png")
    np.testing.assert_allclose(found[..., 0], RAMP * 255, atol=1.5)
    assert found.shape == (36, 64, 3)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_pictures_stand_as_their_exif_says(tmp_path: Path, orientation: int, suffix: str):
    """The stored pixels are turned so that EXIF turns them back."""
    upright = Image.fromarray(
        (np.stack([RAMP, RAMP[:, ::-1], 1 - RAMP], -1) * 255).astype(np.uint8)
    )
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Transpose that undoes it
    exif = Image.Exif()
    exif[274] = orientation
    upright.transpose(Image.Transpose(back)).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    found = load_image(str(tmp_path), f"a.{suffix}")
    np.testing.assert_allclose(found, np.asarray(upright), atol=12)
    assert image_size(str(tmp_path), f"a.{suffix}") == (64, 36)
    small = load_image(str(tmp_path), f"a.{suffix}", (32, 18)).astype(float)
    assert small[:4].mean(axis=(0, 1))[2] > small[-4:].mean(axis=(0, 1))[2] + 100


def test_formats_that_start_programs_are_not_opened():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(DataError, match="of no known format; JPEG, PNG"):
        decode_image(eps, name="a.jpg")


def test_a_picture_of_too_many_pixels_is_refused_by_its_header():
    side = int(MOST_PIXELS**0.5) + 8
    out = io.BytesIO()
    Image.new("1", (side, side)).save(out, "PNG")
    with pytest.raises(DataError, match="scale the pictures down"):
        decode_image(out.getvalue(), (64, 36), name="a.png")


def test_floating_point_pictures_are_refused(tmp_path: Path):
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(DataError, match=r"a\.tiff.*floating point"):
        load_image(str(tmp_path), "a.tiff")
