"""Features on a plane.

Shape suffixes: N = images, F = features.
"""

import numpy as np
import torch
from torch import Tensor

PERPLEXITY = 30.0
FEWEST = 10  # images, below which t-SNE has nothing to say


def flat(feature_NF: Tensor) -> tuple[np.ndarray, str]:
    """float32 [N, 2], each direction in 0..1, and how it was made; the same for the same features.

    t-SNE by scikit-learn, begun from the two main directions and with a fixed seed, so that what lies far apart has a
    meaning (Kobak & Berens, Nature Communications 10:5416, 2019); the main directions themselves where scikit-learn is not
    installed, or of fewer than 10 images.
    """
    name = "the two main directions (PCA)"
    place_N2 = _main_directions(feature_NF)
    if len(feature_NF) >= FEWEST and np.ptp(place_N2, axis=0).max() > 0:
        try:
            from sklearn.manifold import TSNE
        except ModuleNotFoundError:
            name += '; t-SNE needs pip install "viewmill[report]"'
        else:
            perplexity = min(PERPLEXITY, (len(feature_NF) - 1) / 3)
            begin_N2 = (place_N2 / place_N2[:, 0].std().clip(1e-12) * 1e-4).astype(np.float32)
            made = TSNE(2, perplexity=perplexity, init=begin_N2, random_state=0)
            place_N2 = np.asarray(made.fit_transform(feature_NF.numpy()), np.float32)
            name = f"t-SNE from PCA, perplexity {perplexity:.3g}"
    low_2, span_2 = place_N2.min(axis=0), np.ptp(place_N2, axis=0)
    return ((place_N2 - low_2) / np.where(span_2 > 0, span_2, 1)).astype(np.float32), name


def _main_directions(feature_NF: Tensor) -> np.ndarray:
    """[N, 2]: along the two directions of largest variance, each turned so that its farthest image is on its right."""
    centred_NF = feature_NF.double() - feature_NF.double().mean(dim=0)
    left_NR, length_R, _ = torch.linalg.svd(centred_NF, full_matrices=False)
    place_N2 = torch.zeros(len(feature_NF), 2, dtype=torch.float64)
    count = min(2, left_NR.shape[1])
    place_N2[:, :count] = left_NR[:, :count] * length_R[:count]
    farthest_2 = place_N2.gather(0, place_N2.abs().argmax(dim=0, keepdim=True))
    return (place_N2 * torch.where(farthest_2 < 0, -1.0, 1.0)).numpy()
