"""What Pillow and the C libraries below it say while they read an image: Python's warnings, and lines on standard error.

Those lines name no file, and would run through progress bars; here they become remarks on the image, or part of the reason
why it is none.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from PIL import Image

from .encoding import Notes

MOST = 400  # letters that are kept of what a library says
TROUBLE = "its EXIF is damaged in part"
KINDS = {
    "MPO": "its index of more pictures is damaged: the first is used",
    "APNG": "its animation is damaged: the still picture is used",
    "expected size": "its size is another than its directory says",
    "palette": "its palette has no room for what is transparent",
}
ABOUT_TAGS = ("EXIF", "Tag ", "Metadata", "Truncated File")
IN_PASSING = (ResourceWarning, DeprecationWarning, Image.DecompressionBombWarning)  # the last: we have a limit of our own


@contextmanager
def collected(notes: Notes, *, listen: bool) -> Iterator[None]:
    """Around the reading of one image. With `listen` what comes to standard error is caught too.

    What was said of an image that fails becomes part of the error, which is a ValueError then.
    """
    with warnings.catch_warnings(record=True) as caught, _overheard(listen) as words:
        warnings.simplefilter("always")
        try:
            yield
        except Exception as error:
            if said := words():
                reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                raise ValueError(f"{reason} ({said})") from error
            raise
        said = words()
    for warning in caught:
        if not issubclass(warning.category, IN_PASSING):
            text = str(warning.message)
            notes(_kind(text), text)
    if said:
        notes("a library complains of it", said)


def _kind(text: str) -> str:
    if any(word in text for word in ABOUT_TAGS):
        return TROUBLE
    return next((kind for word, kind in KINDS.items() if word in text), "Pillow warns of it")


@contextmanager
def _overheard(listen: bool) -> Iterator[Callable[[], str]]:
    """Standard error as C sees it, caught; yields what gives the text so far, on one line."""
    if not listen:
        yield lambda: ""
        return
    before = os.dup(2)
    caught = os.memfd_create("overheard", os.MFD_CLOEXEC)

    def words() -> str:
        text = os.pread(caught, 1 << 16, 0).decode("utf-8", "replace")
        return "" if "\x1b" in text else "; ".join(text.split("\n")).strip("; ")[:MOST]

    try:
        sys.stderr.flush()
        os.dup2(caught, 2)
        yield words
    finally:
        os.dup2(before, 2)
        text = os.pread(caught, 1 << 20, 0)
        if b"\x1b" in text:  # a progress bar, drawn meanwhile by a thread of this process
            os.write(2, text)
        os.close(before)
        os.close(caught)
