"""Metadata: whatever stands in it costs no photograph and turns none wrongly; what is wrong with it is remarked upon."""

import io
import json
import struct
import warnings
import zlib
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from viewmill.pipeline.beton.manifest import sidecars
from viewmill.pipeline.beton.reader import open_beton
from viewmill.pipeline.conversion.convert import convert
from viewmill.pipeline.conversion.encode import encode
from viewmill.pipeline.conversion.encoding import Encoding
from viewmill.pipeline.conversion.icc import name_of
from viewmill.pipeline.sources.candidate import Candidate, Fetched, Rejected

# 48x32: red grows to the right, green to the bottom, so that every turn and mirror of it is another picture.
DOWN, RIGHT = np.mgrid[0:1:32j, 0:1:48j]
PICTURE = np.uint8(255 * np.stack((RIGHT, DOWN, 1 - RIGHT), axis=-1))
SHORT, LONG, ASCII, BYTE, RATIONAL, UNDEFINED = 3, 4, 2, 1, 5, 7
MAKE, ORIENTATION, X_RESOLUTION, EXIF_IFD = 271, 274, 282, 34665


def tiff(entries, *, order="<", start=8, tail=b"", following=0, count=None):
    """EXIF with one directory of `entries` (tag, type, count, value or offset), the values as they come."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    body = struct.pack(order + "H", len(entries) if count is None else count)
    for tag, kind, number, value in entries:
        packed = struct.pack(order + "H", value) + b"\0\0" if kind == SHORT else struct.pack(order + "I", value)
        body += struct.pack(order + "HHI", tag, kind, number) + packed
    return head + body + struct.pack(order + "I", following) + tail


def turned(value):
    return (ORIENTATION, SHORT, 1, value)


# Damage -> EXIF that says 6 all the same.
DAMAGED = {
    "whole": lambda order: tiff([turned(6)], order=order),
    "a tag larger than the file": lambda order: tiff([(MAKE, ASCII, 0x270000, 60), turned(6)], order=order),
    "a tag that points out of it": lambda order: tiff([(MAKE, ASCII, 8, 0x7FFFFFFF), turned(6)], order=order),
    "a tag just behind its end": lambda order: tiff([(MAKE, ASCII, 20, 60), turned(6)], order=order),
    "a broken tag behind": lambda order: tiff([turned(6), (X_RESOLUTION, RATIONAL, 1, 0x7FFFFFFF)], order=order),
    "too many values": lambda order: tiff([turned(6), (296, SHORT, 2, 2)], order=order),
    "a type that is none": lambda order: tiff([(MAKE, 99, 4, 1), turned(6)], order=order),
    "twice": lambda order: tiff([turned(6), turned(3)], order=order),
    "two orientations in one": lambda order: tiff([(ORIENTATION, SHORT, 2, 6)], order=order),
    "a count that is too large": lambda order: tiff([turned(6)], order=order, count=40),
    "a count of 65,535": lambda order: tiff([turned(6)], order=order, count=0xFFFF),
    "cut behind it": lambda order: tiff([turned(6), (MAKE, ASCII, 4, 0)], order=order)[:28],
    "no end": lambda order: tiff([turned(6)], order=order)[:22],
    "a next directory out of it": lambda order: tiff([turned(6)], order=order, following=999_999),
    "a directory that is its own next": lambda order: tiff([turned(6)], order=order, following=8),
    "an EXIF directory out of it": lambda order: tiff([turned(6), (EXIF_IFD, LONG, 1, 0xFFFFFFF0)], order=order),
    "an EXIF directory before it": lambda order: tiff([turned(6), (EXIF_IFD, 9, 1, 0xFFFFFFF0)], order=order),
    "an EXIF directory that is a text": lambda order: tiff([turned(6), (EXIF_IFD, ASCII, 4, 0x41414141)], order=order),
    "a maker's note of rubbish": lambda order: tiff(
        [turned(6), (EXIF_IFD, LONG, 1, 38)],
        order=order,
        tail=struct.pack(order + "HHHII", 1, 37500, UNDEFINED, 999, 7),
    ),
}
LONG_ORIENTATION = tiff([(ORIENTATION, LONG, 1, 6)])

# EXIF in which there is no orientation to be found: the picture stays as it lies.
UNTOLD = {
    "rubbish": b"gabbage" * 3,
    "empty": b"",
    "a head alone": b"II*\0\x08\0\0\0",
    "a head that is cut": b"II*\0",
    "a directory out of it": tiff([turned(6)], start=0xFFFFFF00),
    "cut before the value": tiff([turned(6)], count=2)[:18],
    "0": tiff([turned(0)]),
    "9": tiff([turned(9)]),
    "a byte": tiff([(ORIENTATION, BYTE, 1, 6)]),
    "a text": tiff([(ORIENTATION, ASCII, 2, 0x36)]),
    "none": tiff([(MAKE, ASCII, 4, 0x41414141)]),
}


def segment(kind, content):
    return bytes((0xFF, kind)) + struct.pack(">H", len(content) + 2) + content


def jpeg(exif, *, more=b"", jfif=True, picture=PICTURE):
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=95, subsampling=0)
    data = encoded.getvalue()
    own = b"" if exif is None else segment(0xE1, b"Exif\0\0" + exif)
    return data[:20] + own + more + data[20:] if jfif else data[:2] + own + more + data[20:]


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks, picture=PICTURE):
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG")
    data = encoded.getvalue()
    return data[:33] + b"".join(chunks) + data[33:]


def webp(exif):
    encoded = io.BytesIO()
    Image.fromarray(PICTURE).save(encoded, "WEBP", lossless=True, exif=b"Exif\0\0" + exif)
    return encoded.getvalue()


FORMATS = {
    "jfif": jpeg,
    "bare jpeg": lambda exif: jpeg(exif, jfif=False),
    "png": lambda exif: png(chunk(b"eXIf", exif)),
    "webp": webp,
}


class Held(tuple):
    """A place that holds bytes."""

    def fetch(self):
        return Fetched(self[0])


def encoded(data, **settings):
    return encode(Candidate("a", "a", Held((data,)), None, len(data)), Encoding(**settings))


def kinds(result):
    assert not isinstance(result, Rejected), result
    return [remark.kind for remark in result.remarks]


def picture_of(result):
    assert not isinstance(result, Rejected), result
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(result.data)) as image:
            return np.asarray(image.convert("RGB")).astype(int)


def is_turned(result, value=6):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    image = Image.fromarray(PICTURE)
    image.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    stored = picture_of(result)
    return stored.shape == expected.shape and np.abs(stored - expected).max() <= 8


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("save", FORMATS)
def test_an_orientation_is_found_whatever_else_in_its_exif_is_broken(save, damage, order):
    result = encoded(FORMATS[save](DAMAGED[damage](order)))
    assert is_turned(result)
    assert (result.width, result.height) == (32, 48)


@pytest.mark.parametrize(("save", "value"), list(product(FORMATS, range(1, 9))))
def test_every_orientation_in_every_format_is_that_of_pillow_though_a_tag_is_broken(save, value):
    data = FORMATS[save](tiff([(MAKE, ASCII, 20, 60), turned(value)]))
    assert is_turned(encoded(data), value)


@pytest.mark.parametrize("damage", UNTOLD)
@pytest.mark.parametrize("save", FORMATS)
def test_a_picture_whose_exif_tells_nothing_stays_as_it_lies(save, damage):
    assert is_turned(encoded(FORMATS[save](UNTOLD[damage])), 1)


def test_what_pillow_reads_in_another_type_counts():
    assert is_turned(encoded(jpeg(LONG_ORIENTATION)))


@pytest.mark.parametrize("damage", [*UNTOLD, "a tag larger than the file"])
def test_an_upright_jpeg_keeps_its_bytes_whatever_its_exif(damage):
    exif = UNTOLD.get(damage) or tiff([(MAKE, ASCII, 0x270000, 60), turned(1)])
    data = jpeg(exif)
    assert encoded(data).data == data


def test_damaged_metadata_is_remarked_upon_in_words():
    assert kinds(encoded(jpeg(tiff([turned(6)])))) == []
    assert kinds(encoded(jpeg(DAMAGED["a tag larger than the file"]("<")))) == ["its EXIF is damaged in part"]
    found = "its EXIF is damaged; the orientation in it was found and applied"
    assert found in kinds(encoded(jpeg(DAMAGED["a tag just behind its end"]("<"))))
    assert kinds(encoded(jpeg(UNTOLD["9"]))) == ["its EXIF orientation is none of 1 to 8: stored as it lies"]
    assert "its EXIF cannot be read: stored as it lies" in kinds(encoded(jpeg(UNTOLD["rubbish"])))


def test_exif_in_two_segments_is_joined():
    whole = tiff([turned(6), (MAKE, ASCII, 40_000, 38)], tail=bytes(40_000))
    data = jpeg(whole[:30_000], more=segment(0xE1, b"Exif\0\0" + whole[30_000:]))
    assert is_turned(encoded(data))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description %s</rdf:RDF></x:xmpmeta>'


@pytest.mark.parametrize("words", [b'tiff:Orientation="6"/>', b"><tiff:Orientation>6</tiff:Orientation></rdf:Description>"])
def test_an_orientation_in_xmp_counts_where_exif_has_none(words):
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP % words)
    assert is_turned(encoded(jpeg(None, more=xmp)))
    assert is_turned(encoded(jpeg(tiff([turned(3)]), more=xmp)), 3)
    assert is_turned(encoded(png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % words))))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("value", range(1, 9))
def test_a_tiff_is_stored_upright(tmp_path, value, compression):
    Image.fromarray(PICTURE).save(tmp_path / "a.tif", compression=compression, tiffinfo={ORIENTATION: value})
    assert is_turned(encoded((tmp_path / "a.tif").read_bytes()), value)


def tiff_file(*, drop=(), more=(), order="<", count=None):
    """An 8-bit RGB TIFF of one strip, its pixels behind the directory."""
    entries = [(256, SHORT, 1, 48), (257, SHORT, 1, 32), (258, SHORT, 3, 0), (259, SHORT, 1, 1), (262, SHORT, 1, 2)]
    entries += [(273, LONG, 1, 0), (277, SHORT, 1, 3), (278, SHORT, 1, 32), (279, LONG, 1, PICTURE.size), *more]
    entries = sorted(entry for entry in entries if entry[0] not in drop)
    bits = 8 + 2 + 12 * len(entries) + 4
    place = {258: (258, SHORT, 3, 0), 273: (273, LONG, 1, bits + 6)}
    entries = [place.get(entry[0], entry) for entry in entries]
    data = bytearray(tiff(entries, order=order, tail=struct.pack(order + "3H", 8, 8, 8) + PICTURE.tobytes(), count=count))
    at = 10 + 12 * [entry[0] for entry in entries].index(258) + 8
    data[at : at + 4] = struct.pack(order + "I", bits)
    return bytes(data)


def test_a_tiff_with_a_broken_private_tag_is_whole_and_one_with_a_broken_pixel_tag_is_not():
    assert is_turned(encoded(tiff_file()), 1)
    result = encoded(tiff_file(more=[(EXIF_IFD, 9, 1, 0xFFFFFFF0), (65000, ASCII, 0x270000, 60)]))
    assert is_turned(result, 1)
    assert kinds(result)
    assert is_turned(encoded(tiff_file(more=[(270, ASCII, 20, 0x7FFFFFFF), turned(6)])))
    damaged = encoded(tiff_file(more=[(317, ASCII, 200, 0x7FFFFFFF)]))
    assert isinstance(damaged, Rejected)
    assert "tag 317" in damaged.reason
    assert isinstance(encoded(tiff_file(count=60_000)), Rejected)


def test_a_preview_in_a_raw_file_is_no_photograph():
    result = encoded(tiff_file(more=[(254, LONG, 1, 1)]))
    assert isinstance(result, Rejected)
    assert "develop it first" in result.reason


BROKEN_CHUNKS = {
    "a text that unpacks to 2 MB": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))),
    "a profile that unpacks to 2 MB": chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2 << 20))),
    "an unknown compression": chunk(b"zTXt", b"a\0\x07abc"),
    "a wrong checksum": chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0",
    "a short gAMA": chunk(b"gAMA", b"\0"),
    "a short cHRM": chunk(b"cHRM", bytes(7)),
    "a short pHYs": chunk(b"pHYs", b"\0"),
    "an animation of no frames": chunk(b"acTL", bytes(8)),
    "an animation that is cut": chunk(b"acTL", bytes(3)),
    "frames in disorder": chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", struct.pack(">I", 7) + bytes(22)),
}


@pytest.mark.parametrize("broken", BROKEN_CHUNKS)
def test_a_png_whose_other_chunks_are_broken_is_the_picture_that_it_holds(broken):
    result = encoded(png(BROKEN_CHUNKS[broken]))
    assert is_turned(result, 1)
    assert kinds(result)
    assert is_turned(encoded(png(BROKEN_CHUNKS[broken], chunk(b"eXIf", tiff([turned(6)])))))


def test_a_png_whose_pixels_are_broken_stays_a_loss():
    data = png(BROKEN_CHUNKS["a wrong checksum"])
    for bad in (data[:-60], data.replace(b"IDAT", b"IDAT\x07", 1)):
        assert isinstance(encoded(bad), Rejected)


@pytest.mark.parametrize(
    "extra",
    [
        segment(0xE2, b"MPF\0" + b"II*\0\x08\0\0\0\x01\0" + bytes(40)),
        segment(0xE2, b"MPF\0rubbish"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x02ab"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x04"),
        segment(0xEE, b"Adobe"),
        segment(0xE0, b"JFIF\0"),
        segment(0xFE, b"\xff\xfe comment"),
        segment(0xE2, b"ICC_PROFILE\0\x01\x02short"),
        segment(0xE2, b"ICC_PROFILE\0"),
    ],
    ids=lambda extra: repr(extra[4:16]),
)
@pytest.mark.parametrize("exif", [None, tiff([turned(6)])], ids=["upright", "turned"])
def test_a_jpeg_with_any_other_broken_segment_is_the_picture_that_it_holds(extra, exif):
    data = jpeg(exif, more=extra)
    result = encoded(data)
    assert is_turned(result, 6 if exif else 1)
    assert exif or result.data[-500:] == data[-500:]  # its pixels as they were, the metadata where Pillow reads it


def test_what_is_behind_the_first_picture_is_remarked_upon(tmp_path):
    frames = [Image.fromarray(np.roll(PICTURE, shift, axis=1)) for shift in (0, 9, 20)]
    for name in ("a.gif", "a.png", "a.webp", "a.tif", "a.mpo", "a.avif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        result = encoded((tmp_path / name).read_bytes())
        assert kinds(result) == ["holds more pictures: the first is used"], name
        assert (result.width, result.height) == (48, 32)
    still = jpeg(None)
    video = still + b"\0\0\0\x18ftypmp42" + bytes(500)
    assert encoded(video).data == video
    assert kinds(encoded(video)) == ["a motion photo: the video behind the picture is not used"]
    assert kinds(encoded(still + bytes(500))) == []


def test_a_conversion_counts_and_lists_the_remarks_of_its_images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(jpeg(tiff([(MAKE, ASCII, 0x270000, 60), turned(6)]) if number % 2 else None))
    done = convert([folder], tmp_path / "a.beton", workers=2)
    assert (done.rows, done.rejected) == (6, 0)
    assert open_beton(done.target).width_N.tolist() == [48, 32] * 3
    lines = [json.loads(line) for line in sidecars(done.target)["remarks"].read_text().splitlines()]
    assert [line["path"] for line in lines] == [str(folder / f"{number}.jpg") for number in (1, 3, 5)]
    assert {line["kind"] for line in lines} == {"its EXIF is damaged in part"}


def test_c_libraries_do_not_speak_over_the_bar_and_their_words_are_in_the_reason(tmp_path, capfd):
    Image.fromarray(PICTURE).save(tmp_path / "a.tif", compression="tiff_lzw")
    data = (tmp_path / "a.tif").read_bytes()
    broken = encoded(data.replace(data[8:200], bytes(192), 1))
    assert isinstance(broken, Rejected)
    assert "Using code not yet in table" in broken.reason
    assert capfd.readouterr().err == ""


def test_colours_stay_as_stored_with_a_remark_or_become_srgb_where_asked(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert "sRGB" in name_of(srgb)
    swapped = bytearray(srgb)  # red and green change places: another profile, of another name
    red, green = swapped.index(b"rXYZ", 128), swapped.index(b"gXYZ", 128)
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    other = bytes(swapped).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    assert "swap" in name_of(other)
    for kind in ("JPEG", "PNG"):
        image = io.BytesIO()
        Image.fromarray(PICTURE).save(
            image, kind, icc_profile=other, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {})
        )
        kept = encoded(image.getvalue())
        assert is_turned(kept, 1)
        assert [(remark.kind[:33], remark.detail) for remark in kept.remarks] == [
            ("its colour profile is not sRGB an", name_of(other))
        ]
        converted = encoded(image.getvalue(), colours="srgb")
        assert kinds(converted) == ["its colours were converted to sRGB"]
        assert np.abs(picture_of(converted) - PICTURE[..., [1, 0, 2]]).max() <= 8
    image = io.BytesIO()
    Image.fromarray(PICTURE).save(image, "JPEG", icc_profile=srgb)
    for colours in ("stored", "srgb"):
        assert encoded(image.getvalue(), colours=colours).data == image.getvalue()
        assert kinds(encoded(image.getvalue(), colours=colours)) == []


def test_a_profile_that_is_rubbish_changes_nothing():
    image = io.BytesIO()
    Image.fromarray(PICTURE).save(image, "PNG", icc_profile=b"rubbish" * 30)
    result = encoded(image.getvalue(), colours="srgb")
    assert is_turned(result, 1)
    assert kinds(result) == ["its colour profile cannot be used: colours are as stored"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "HEIC (HEIF), as phones write it"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(50), "HEIC (HEIF), as phones write it"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avif" + bytes(50), "AVIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(50), "a video"),
        (b"\xff\x0a" + bytes(50), "JPEG XL"),
        (b"<!DOCTYPE html><html><body>404", "a web page"),
        (b'<?xml version="1.0"?><svg width="3"></svg>', "SVG, a drawing"),
        (b"%PDF-1.7", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (bytes(128) + b"DICM" + bytes(50), "DICOM"),
        (b"MIT Licence\n", "text"),
        (bytes(100), "nothing but zeros"),
        (b"GIF89a\0\0\0\0", "damaged: a GIF"),
        (jpeg(None).replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "a JPEG of 12 bits a sample"),
    ],
)
def test_what_is_no_image_is_named_with_the_remedy(data, reason):
    result = encoded(data)
    assert isinstance(result, Rejected)
    assert reason in result.reason


def test_avif_is_read():
    image = io.BytesIO()
    Image.fromarray(PICTURE).save(image, "AVIF", quality=100)
    assert np.abs(picture_of(encoded(image.getvalue())) - PICTURE).max() <= 12


def test_text_in_a_png_is_no_exif():
    info = PngImagePlugin.PngInfo()
    info.add_text("exif", "no exif")
    image = io.BytesIO()
    Image.fromarray(PICTURE).save(image, "PNG", pnginfo=info)
    assert is_turned(encoded(image.getvalue()), 1)
