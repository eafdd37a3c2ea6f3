"""viewmill: from folders of images to representations."""

__version__ = "0.1.0"
