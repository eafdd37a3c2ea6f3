"""Ranges of the commands' numbers, as types: the command line, a study's file and config.json are held to the same ones.

files/typed.py reads them; tyro takes a type with a range for the type.
"""

from typing import Annotated

from msgspec import Meta

Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Threads = Annotated[int, Meta(ge=0, le=1024)]
"""0 for every usable core."""
FromZero = Annotated[int, Meta(ge=0)]
FromOne = Annotated[int, Meta(ge=1)]
FromTwo = Annotated[int, Meta(ge=2)]
Timeout = Annotated[int, Meta(ge=1, le=86_400)]
"""Seconds."""

Share = Annotated[float, Meta(ge=0, le=1)]
Proper = Annotated[float, Meta(ge=0, lt=1)]
"""A share of less than all: momenta, of which 1 would never move."""
Rate = Annotated[float, Meta(ge=0, le=1000)]
PositiveRate = Annotated[float, Meta(gt=0, le=1000)]
Decay = Annotated[float, Meta(ge=0, le=1000)]
Norm = Annotated[float, Meta(ge=0, le=1e9)]

Width = Annotated[int, Meta(ge=1, le=4096)]
"""Channels of an encoder's first stage."""
Size = Annotated[int, Meta(ge=8, le=4096)]
"""Side of a view in pixels."""
Side = Annotated[int, Meta(ge=1, le=4096)]
"""The same where no encoder has to see it."""
Pixels = Annotated[int, Meta(ge=0, le=65_535)]
"""Of an image's side; 0 for none."""
PixelsInAll = Annotated[int, Meta(ge=1, le=1_000_000_000)]
"""Of an image: 4 GB while it is decoded."""
Features = Annotated[int, Meta(ge=1, le=65_536)]
"""Of a hidden layer, or channels."""
Anchor = Annotated[int, Meta(ge=1, le=65_535)]
"""The same of one that is there."""
Hidden = Annotated[int, Meta(ge=0, le=65_536)]
"""0 for a linear projector."""
Embedding = Annotated[int, Meta(ge=2, le=65_536)]
Epochs = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Freeze = Annotated[int, Meta(ge=0, le=5)]
"""Parts of an encoder, from the stem on."""

Quality = Annotated[int, Meta(ge=1, le=100)]
"""Of JPEG."""
Bad = Annotated[float, Meta(ge=0)]
"""A share of images, or from 1 on a number of them."""
Fraction = Annotated[float, Meta(gt=0, lt=1)]
Temperature = Annotated[float, Meta(ge=1e-6, le=1000)]
DemoSeed = Annotated[int, Meta(ge=0, le=2**62 - 1)]
"""From which two others come, up to twice as large."""
