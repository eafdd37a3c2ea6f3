"""Memory of finished batches, used again."""

import math
import sys

import numpy as np
import torch


class Buffers:
    """Memory for tensors on the host that is used again once nobody holds them any more.

    torch gives large memory back to the system at once, and getting it again takes a third of the time of filling it with
    views. A tensor made of a numpy array holds a reference to it, by which we see whether one of them, a view of one, or an
    autograd graph still lives.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor with whatever was left in it."""
        size = math.prod(shape) * dtype.itemsize
        for array in self._arrays:
            # three: the list's, this loop's and getrefcount's own
            if sys.getrefcount(array) == 3 and array.nbytes == size:
                break
        else:
            self._arrays = [array for array in self._arrays if sys.getrefcount(array) > 3]  # idle ones are of another size
            array = np.empty(size, np.uint8)
            self._arrays.append(array)
        return torch.from_numpy(array).view(dtype).view(shape)
