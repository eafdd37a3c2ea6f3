"""The ffcv engine: FFCV's C decoder under our own compiled kernels and threads."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...files.opening import descriptor_to_read
from ..beton.reader import Beton
from ..threads import Scratch, in_pieces
from ..views.plan import ViewPlan
from . import kernels, libffcv
from .engine import Then, nothing


def fault() -> str:
    """Why FFCV's library does not load here and which command mends it; "" where it does."""
    try:
        libffcv.library()
    except libffcv.EngineUnavailable as error:
        return str(error)
    return ""


class FfcvEngine:
    """Reads by pread, decodes each image once, cuts all its views; one scratch buffer a thread, return codes checked."""

    def __init__(self, beton: Beton, threads: int) -> None:
        kernels.bind()
        self._descriptor = descriptor_to_read(beton.path)
        self._places_N5 = np.stack(
            (beton.offset_N, beton.size_N, beton.mode_N, beton.height_N, beton.width_N), axis=-1
        ).astype(np.int64)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="viewmill-ffcv")
        self._scratch = Scratch()

    def crops(self, row_B: np.ndarray, plan: ViewPlan, outs: tuple[np.ndarray, ...], then: Then = nothing) -> np.ndarray:
        """See Engine."""
        places_B5 = self._places_N5[row_B]
        group_V, slot_V = np.empty((2, len(plan.recipe.views)), np.int64)
        for group, members in enumerate(plan.recipe.groups):
            group_V[list(members)], slot_V[list(members)] = group, np.arange(len(members))
        status_B = np.empty(len(row_B), np.uint8)

        def work(begin: int, end: int) -> None:
            encoded = self._scratch.take("encoded", places_B5[begin:end, 1].max())
            decoded = self._scratch.take("decoded", (places_B5[begin:end, 3] * places_B5[begin:end, 4]).max() * 3)
            fixed = (self._descriptor, places_B5, plan.box_VB4, plan.flip_VB, group_V, slot_V, outs, status_B)
            kernels.decode_and_crop(*fixed, begin, end, encoded, decoded)
            then(begin, end)

        in_pieces(self._pool, work, len(row_B))
        return status_B == kernels.OK

    def close(self) -> None:
        """See Engine."""
        if self._descriptor >= 0:
            self._pool.shutdown()
            os.close(self._descriptor)
            self._descriptor = -1
