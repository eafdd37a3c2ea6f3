"""The .beton format: read, written, described by a manifest, looked at and cut."""
