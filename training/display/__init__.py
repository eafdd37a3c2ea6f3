"""What a training shows: the screen, pictures, trackers. Nothing is shown that the log does not hold."""
