"""A run's state on disk: safetensors and a manifest, written beside the training, verified before it is used."""
