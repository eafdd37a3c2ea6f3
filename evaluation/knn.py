"""Weighted k-nearest-neighbour classification of frozen features (arXiv 1805.01978, section 3.4).

Shape suffixes: N = training images, Q = queries, F = features, C = classes, K = neighbours.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 512  # queries at a time: bounds the similarity matrix to 512 x N


def predict(
    train_NF: Tensor, train_label_N: Tensor, query_QF: Tensor, *, classes: int, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """int64 [Q]: the class with the largest sum of exp(cosine / temperature) over the `k` nearest training images.

    `k` larger than the training set means all of it. Ties go to the lower class.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k must be at least 1 and temperature above 0, got {k} and {temperature}")
    train_NF, query_QF = F.normalize(train_NF.float(), dim=1), F.normalize(query_QF.float(), dim=1)
    k = min(k, len(train_NF))
    predicted = []
    for chunk_QF in query_QF.split(CHUNK):
        similarity_QK, index_QK = (chunk_QF @ train_NF.T).topk(k, dim=1)
        # less the nearest's: the same ranking, never above 1, and not all 0 at a low temperature
        weight_QK = ((similarity_QK - similarity_QK[:, :1]) / temperature).exp()
        votes_QC = torch.zeros(len(chunk_QF), classes, device=chunk_QF.device)
        votes_QC.scatter_add_(1, train_label_N[index_QK], weight_QK)
        predicted.append(votes_QC.argmax(dim=1))
    return torch.cat(predicted)
