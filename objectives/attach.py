"""Critic values at chosen rows, with their gradient, in bounded memory.

The rows of 256 anchors with 4,095 negatives each are half a gigabyte, and the critic against a whole bank of 1,281,167 rows
is 1.3 GB; so neither is kept for the backward pass, which makes what it needs anew for a block of anchors at a time.

Shape suffixes: N = anchors, M = rows on offer, K = rows of an anchor, D = embedding, C = anchors in a block.
"""

from typing import Any

import torch
from torch import Tensor

DENSE = 32  # rows on offer per row chosen, up to which one product over all of them is faster than gathering the chosen
BLOCK = 16 << 20  # numbers of a block: 64 MB in single precision


def attach(anchor_ND: Tensor, key_MD: Tensor, index_NK: Tensor, value_NK: Tensor | None, scale: float) -> Tensor:
    """[N, K]: scale * anchor . key[index], with gradient to anchors and keys.

    `value_NK` are these numbers where the caller has them already: they are then not computed again.
    """
    return _Attach.apply(anchor_ND, key_MD, index_NK, value_NK, scale)  # pyright: ignore[reportReturnType]


def _block(anchors: int, numbers: int) -> int:
    return max(1, min(anchors, BLOCK // max(1, numbers)))


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor_ND: Tensor, key_MD: Tensor, index_NK: Tensor, value_NK: Tensor | None, scale: float
    ) -> Tensor:
        ctx.save_for_backward(anchor_ND, key_MD, index_NK)
        ctx.scale = scale
        if value_NK is not None:
            return value_NK.clone()
        size = _block(len(anchor_ND), index_NK.shape[1] * key_MD.shape[1])
        blocks = zip(anchor_ND.split(size), index_NK.split(size), strict=True)
        return torch.cat([torch.einsum("cd,ckd->ck", anchor, key_MD[index]) for anchor, index in blocks]) * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        anchor_ND, key_MD, index_NK = ctx.saved_tensors
        grad_NK = grads[0] * ctx.scale
        rows, chosen = len(key_MD), index_NK.shape[1]
        dense = ctx.needs_input_grad[1] or rows <= DENSE * chosen
        size = _block(len(anchor_ND), rows if dense else chosen * key_MD.shape[1])
        grad_key_MD = torch.zeros_like(key_MD) if ctx.needs_input_grad[1] else None
        grad_anchor = []
        for anchor_CD, index_CK, grad_CK in zip(
            anchor_ND.split(size), index_NK.split(size), grad_NK.split(size), strict=True
        ):
            if not dense:
                grad_anchor.append(torch.einsum("ck,ckd->cd", grad_CK, key_MD[index_CK]))
                continue
            # scatter_add: rows that were drawn for an anchor can repeat
            grad_CM = grad_CK.new_zeros(len(grad_CK), rows).scatter_add_(1, index_CK, grad_CK)
            grad_anchor.append(grad_CM @ key_MD)
            if grad_key_MD is not None:
                grad_key_MD.addmm_(grad_CM.T, anchor_CD)
        return torch.cat(grad_anchor), grad_key_MD, None, None, None
