"""A PNG without what is no part of its picture."""

START = b"\x89PNG\r\n\x1a\n"
PICTURE = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


def bare(data: bytes) -> bytes:
    """The PNG `data` with those of its chunks alone that a decoder must know; as it is from the first that breaks off on."""
    kept, at = [START], len(START)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")  # length, name, content, checksum
        if end > len(data):
            break
        if data[at + 4 : at + 8] in PICTURE:
            kept.append(data[at:end])
        at = end
    return b"".join(kept) + data[at:]


def exif(data: bytes) -> bytes:
    """What its first eXIf chunk holds, whatever its checksum; b"" without one."""
    at = len(START)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"eXIf":
            return data[at + 8 : at + 8 + size]
        at += 12 + size
    return b""


def is_deep_colour(data: bytes) -> bool:
    """Whether its header says 16 bits of red, green and blue, or of grey and alpha, of which Pillow reads the upper 8."""
    return data[24:26] in (b"\x10\x02", b"\x10\x04", b"\x10\x06")
