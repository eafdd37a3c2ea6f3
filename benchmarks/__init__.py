"""What viewmill is measured with, and against what."""
