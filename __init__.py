"""viewmill: from folders of images to representations."""

__version__ = "0.2.0"
