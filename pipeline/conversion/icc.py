"""The name of a colour profile (ICC), and whether it is sRGB, of which every picture is taken that says nothing."""

OTHER = "its colour profile is not sRGB and is not applied: colours are as stored, see --colours"


def name_of(profile: bytes) -> str:
    """The description of `profile`, of which the beginning may be all that is there; "" where it has none."""
    for at in range(132, min(len(profile), 132 + 12 * int.from_bytes(profile[128:132], "big")), 12):
        if profile[at : at + 4] == b"desc":
            offset = int.from_bytes(profile[at + 4 : at + 8], "big")
            return _text(profile[offset : offset + int.from_bytes(profile[at + 8 : at + 12], "big")])
    return ""


def _text(described: bytes) -> str:
    """Of version 2: a length, then ASCII. Of version 4: places of texts in several languages, of which the first."""
    if described.startswith(b"desc"):
        return described[12 : 12 + int.from_bytes(described[8:12], "big")].rstrip(b"\0").decode("latin-1")
    size, offset = int.from_bytes(described[20:24], "big"), int.from_bytes(described[24:28], "big")
    return described[offset : offset + size].decode("utf-16-be", "replace")


def is_srgb(profile: bytes) -> bool:
    """Whether `profile` calls itself sRGB; "c2" is the small one of Facebook's pictures."""
    name = name_of(profile)
    return "srgb" in name.lower() or name == "c2"
