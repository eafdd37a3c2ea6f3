"""Image files to .beton to augmented views on the device. Knows no model and no loss."""
