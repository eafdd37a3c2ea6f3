"""What is an image, told by a file's name or by its first bytes: no file with an image's name is opened for it."""

from ...files.opening import open_to_read

NAMES = """
jpg jpeg jpe jfif pjpeg pjp png apng webp gif bmp dib tif tiff ppm pgm pbm pnm pfm jp2 j2k jpc jpf jpx j2c avif avifs heic
heif hif jxl ico cur icns tga psd pcx qoi mpo dds sgi rgb rgba xbm xpm ras dng cr2 cr3 nef arw raf orf rw2
"""
ENDINGS = frozenset(NAMES.split())
"""Names of files that are images, be they of a kind that can be read or not: what is broken among them is lost."""
ARCHIVES = frozenset(("tar", "parquet", "arrow"))
HEAD = 16  # bytes that tell a kind
MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",
    b"MM\0*",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
    b"8BPS",
    b"qoif",
    b"\xff\x0a",
    b"\0\0\0\x0cJXL ",
)
BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def ending(name: str) -> str:
    """The last part of a file's name, in small letters and without its dot; "" where there is none."""
    _, dot, kind = name.rpartition(".")
    return kind.lower() if dot and "/" not in kind else ""


def is_image_name(name: str) -> bool:
    """Whether a file of this name is one that people take for an image."""
    return ending(name) in ENDINGS


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with `head` is an image, of a kind whose beginning leaves no doubt."""
    if head.startswith(MAGIC):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in BRANDS
    return head[:2] == b"BM" and head[6:10] == bytes(4)


def begins_like_image(path: str) -> bool:
    """The same of the regular file `path`; one that cannot be opened is none."""
    try:
        with open_to_read(path) as file:
            return looks_like_image(file.read(HEAD))
    except OSError:
        return False


def told(name: str) -> str:
    """The kind of a remark on a file that is no image: all of one ending are counted together."""
    kind = ending(name)
    if kind in ("csv", "tsv"):
        return f"no image (.{kind}); a list of images is read where it is named itself"
    return f"no image (.{kind})" if kind else "no image"
