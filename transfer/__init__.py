"""Detection, instance segmentation and keypoints with an encoder as the backbone."""
