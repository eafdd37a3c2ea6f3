"""Deep greys, large photographs: one rule for a whole set, said where it decides, and never a guess for a single image."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from test_metadata import chunk, encoded, kinds, picture_of, tiff_file

from viewmill.pipeline.conversion.greys import CLIPPED, COLOURS_DARK, DARK, STATED
from viewmill.pipeline.sources.candidate import Rejected
from viewmill.run import main

RAMP = np.linspace(0, 1, 48 * 32).reshape(32, 48)


def saved(picture, kind="PNG", **options):
    image = io.BytesIO()
    Image.fromarray(picture).save(image, kind, **options)
    return image.getvalue()


def grey_of(result):
    return picture_of(result)[..., 0]


def close(result, expected):
    return np.abs(grey_of(result) - expected).max() <= 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_twelve_bits_in_sixteen_are_remarked_upon_and_scaled_where_asked(kind):
    data = saved(np.uint16(RAMP * 4095), kind)
    dark = encoded(data)
    assert kinds(dark) == [DARK]
    assert dark.remarks[0].detail == "0 to 4095 of 65535"
    assert grey_of(dark).max() <= 18
    asked = encoded(data, grey_range=(0, 4095))
    assert kinds(asked) == []
    assert close(asked, 255 * RAMP)


def test_all_of_sixteen_bits_needs_no_word():
    result = encoded(saved(np.uint16(RAMP * 65535)))
    assert kinds(result) == []
    assert close(result, 255 * RAMP)


def test_one_range_holds_for_every_image_and_what_is_outside_is_clipped_with_a_remark():
    bright, dim = (np.uint16(RAMP * most) for most in (4095, 1023))
    assert close(encoded(saved(bright), grey_range=(0, 4095)), 255 * RAMP)
    assert close(encoded(saved(dim), grey_range=(0, 4095)), 255 / 4 * RAMP)
    clipped = encoded(saved(bright), grey_range=(0, 1023))
    assert kinds(clipped) == [CLIPPED]
    assert close(clipped, (1020 * RAMP).clip(0, 255))


def test_a_tiff_of_twelve_bits_says_so_itself():
    data = saved(np.uint16(RAMP * 4095), "TIFF", tiffinfo={281: 4095})
    result = encoded(data)
    assert kinds(result) == [STATED]
    assert close(result, 255 * RAMP)
    assert kinds(encoded(saved(np.uint16(RAMP * 4000), "TIFF", tiffinfo={281: 4000}))) == [DARK]  # a statistic of this image


def test_a_tiff_whose_white_is_zero_is_no_negative():
    data = bytearray(saved(np.uint16(RAMP * 65535), "TIFF"))
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    data[at + 8 : at + 10] = struct.pack("<H", 0)
    assert close(encoded(bytes(data)), 255 * (1 - RAMP))


@pytest.mark.parametrize(
    ("picture", "settings", "reason"),
    [
        (np.float32(RAMP * 255), {}, "F pixels from 0 to 255; expected 0 to 1: say by --grey-range"),
        (np.int32(RAMP * 4095) - 1024, {}, "I pixels from -1024 to 3071; expected 0 to 65535"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), {}, "not all of them finite numbers"),
        (np.where(RAMP > 0.5, np.inf, RAMP).astype(np.float32), {"grey_range": (0, 1)}, "not all of them finite numbers"),
    ],
)
def test_a_range_outside_is_refused_in_words(picture, settings, reason):
    result = encoded(saved(picture, "TIFF"), **settings)
    assert isinstance(result, Rejected)
    assert reason in result.reason


def test_a_range_may_be_below_zero_or_of_floats():
    assert close(encoded(saved(np.int32(RAMP * 4095) - 1024, "TIFF"), grey_range=(-1024, 3071)), 255 * RAMP)
    assert close(encoded(saved(np.float32(RAMP * 255), "TIFF"), grey_range=(0, 255)), 255 * RAMP)


def test_colours_of_sixteen_bits_that_are_almost_black_are_remarked_upon():
    rows = (np.repeat(RAMP[..., None], 3, axis=2) * 4095).astype(">u2").reshape(32, -1)
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", 48, 32, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    assert kinds(encoded(data)) == [COLOURS_DARK]
    assert kinds(encoded(tiff_file())) == []


@pytest.mark.parametrize("given", [["5", "5"], ["9", "1"], ["0", "inf"], ["nan", "1"]])
def test_a_range_that_is_none_is_refused(tmp_path, capsys, given):
    assert main(["convert", str(tmp_path), str(tmp_path / "a.beton"), "--grey-range", *given]) == 2
    assert "--grey-range" in capsys.readouterr().err


def photograph(side, **options):
    image = io.BytesIO()
    grain = np.random.default_rng(0).integers(0, 256, (side // 50, side // 40, 3), np.uint8)
    Image.fromarray(grain).resize((side, side * 3 // 4)).save(image, "JPEG", **options)
    return image.getvalue()


def test_a_photograph_above_the_limit_is_decoded_at_a_fraction_where_it_becomes_smaller():
    data = photograph(800)  # 480,000 pixels
    refused = encoded(data, max_pixels=200_000)
    assert isinstance(refused, Rejected)
    assert "800x600 pixels; at most 200000" in refused.reason
    assert "--max-pixels" in refused.reason
    for settings in ({"side": 100}, {"max_resolution": 200}):
        small, whole = encoded(data, max_pixels=200_000, **settings), encoded(data, **settings)
        assert (small.width, small.height) == (whole.width, whole.height)
        assert np.abs(picture_of(small) - picture_of(whole)).mean() < 3
    assert isinstance(encoded(data, max_pixels=200_000, side=590), Rejected)  # no fraction of it is as large as that
    assert isinstance(encoded(data, max_pixels=100_000, side=100), Rejected)  # more than four times as many
    assert isinstance(encoded(photograph(800, progressive=True), max_pixels=200_000, side=100), Rejected)


def test_what_is_no_jpeg_has_the_limit_as_it_is_and_a_higher_one_may_be_asked_for():
    data = saved(np.zeros((600, 800, 3), np.uint8))
    assert isinstance(encoded(data, max_pixels=200_000, side=100), Rejected)
    assert encoded(data, max_pixels=480_000, side=100).height == 100
