"""Images of any kind -> .beton."""
