"""Colours by an image's own profile (ICC) -> sRGB, by LittleCMS."""

import io

from PIL import Image, ImageCms

from .encoding import Notes
from .icc import is_srgb, name_of

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
CONVERTED = "its colours were converted to sRGB"
UNREADABLE = "its colour profile cannot be used: colours are as stored"


def converted(image: Image.Image, notes: Notes) -> Image.Image | None:
    """The image in sRGB; None where it is that already, or has no profile that fits it."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile or is_srgb(profile):
        return None
    if image.mode in ("P", "PA", "RGBA", "RGBX"):
        image = image.convert("RGBA").convert("RGB")
    elif image.mode in ("1", "LA"):
        image = image.convert("L")
    try:
        result = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        notes(UNREADABLE, f"{name_of(profile)}: {error}".strip(": "))
        return None
    notes(CONVERTED, name_of(profile))
    return result
