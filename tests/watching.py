"""What sees to it that operations on a made-up GPU stay there."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Watch(TorchDispatchMode):
    """Raises where an operation has tensors on both sides, or makes one on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)}
        if len(devices) > 1 or devices == {"cpu"}:
            raise RuntimeError(f"{func} works on {sorted(devices)}")
        return out
