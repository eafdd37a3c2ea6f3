"""In words what a file is that no decoder here reads, and what to do about it, from its first bytes."""

import re
from pathlib import Path

HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF = {b"avif", b"avis"}
TO_JPEG = "make JPEG of it first, for example with heif-convert or ImageMagick"
BEGINNINGS = {
    b"%PDF": "a PDF",
    b"%!PS": "PostScript, which is a program",
    b"\xc5\xd0\xd3\xc6": "PostScript, which is a program",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "HDF5",
    b"SIMPLE  =": "FITS",
    b"PAR1": "parquet",
    b"ARROW1": "Arrow",
    b"SQLite format 3": "an SQLite database",
    b"\x1aE\xdf\xa3": "a video (Matroska or WebM)",
    b"ID3": "music",
    b"fLaC": "music",
    b"OggS": "music or a video",
    b"RIFF": "music or a video (RIFF)",
    b"\x7fELF": "a program",
    b"\x00\x05\x16\x07": "an AppleDouble file, which macOS writes beside others",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the files themselves (git lfs pull)",
    b"\xff\x0a": f"JPEG XL, which Pillow does not read: {TO_JPEG}",
    b"\x00\x00\x00\x0cJXL ": f"JPEG XL, which Pillow does not read: {TO_JPEG}",
}
PICTURES = {
    b"\xff\xd8": "a JPEG",
    b"\x89PNG\r\n\x1a\n": "a PNG",
    b"GIF8": "a GIF",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"BM": "a BMP",
}
MARKUP = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(!doctype html|html|head|body|svg|\?xml)", re.IGNORECASE | re.DOTALL)
UNSURE = ("text", "nothing but zeros")
TEXT = re.compile(rb"[\t\n\r\x20-\x7e]+")


def picture_of(data: bytes) -> str:
    """Which kind of image `data` begins as, of those that are met most; "" for none of them."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "a WebP"
    return next((name for beginning, name in PICTURES.items() if data.startswith(beginning)), "")


def kind_of(data: bytes) -> str:
    """What `data` is, if its beginning tells; "" otherwise. HEIC, AVIF and JPEG XL come with a remedy."""
    if data[4:8] == b"ftyp":
        return _of_boxes(data[8:12], data[:64])
    if data[257:262] == b"ustar":
        return "a tar archive"
    if data[128:132] == b"DICM":
        return "DICOM: make 16-bit PNG of it first, and see --grey-range"
    for beginning, name in BEGINNINGS.items():
        if data.startswith(beginning):
            return name
    begin = data[:1024].removeprefix(b"\xef\xbb\xbf")
    if found := MARKUP.match(begin):
        if b"<svg" in begin.lower():
            return "SVG, a drawing: make PNG of it first"
        return "XML" if found[1].startswith(b"?") else "a web page, as servers send in place of an image"
    if begin and not begin.strip(b"\0"):
        return "nothing but zeros"
    return "text" if TEXT.fullmatch(begin) else ""


def _of_boxes(brand: bytes, begin: bytes) -> str:
    brands = {brand, *(begin[at : at + 4] for at in range(16, min(int.from_bytes(begin[:4]), 64), 4))}
    if brand in AVIF or (brands & AVIF and not brands & (HEIF - {b"mif1", b"msf1"})):
        return f"AVIF, which this Pillow does not read: {TO_JPEG}"
    if brand in HEIF:
        return f"HEIC (HEIF), as phones write it, which Pillow does not read: {TO_JPEG}, or have the phone save JPEG"
    if brand == b"crx ":
        return "a raw file of a camera (CR3): develop it first"
    return "a video (MP4 or QuickTime)"


def told_otherwise(path: Path, begin: bytes) -> str:
    """In words that `path`, which should be a .beton, is known as something else by its first bytes; "" where it is not."""
    if name := picture_of(begin):
        command = f"viewmill convert {path.parent} {path.absolute().parent.name or 'images'}.beton"
        return f"{path} is {name}, no .beton: {command} makes one of it and the images beside it"
    name = kind_of(begin)
    return f"{path} is no .beton but {name}" if name and name not in UNSURE else ""
