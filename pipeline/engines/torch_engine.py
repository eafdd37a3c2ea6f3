"""The torch engine: Pillow decodes and resizes, as torchvision's transforms do. Always there; the reference for parity."""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from ...files.opening import descriptor_to_read
from ..beton.reader import RAW, Beton
from ..threads import in_pieces
from ..views.plan import ViewPlan
from .engine import Then, nothing


class TorchEngine:
    """Pillow's libjpeg-turbo (accurate DCT) and its antialiased bilinear filter, one image a task."""

    def __init__(self, beton: Beton, threads: int) -> None:
        self._beton = beton
        self._descriptor = descriptor_to_read(beton.path)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="viewmill-torch")

    def crops(self, row_B: np.ndarray, plan: ViewPlan, outs: tuple[np.ndarray, ...], then: Then = nothing) -> np.ndarray:
        """See Engine."""
        valid_B = np.ones(len(row_B), bool)

        def work(begin: int, end: int) -> None:
            for b in range(begin, end):
                image = self._decode(int(row_B[b]))
                valid_B[b] = image is not None
                for out, members in zip(outs, plan.recipe.groups, strict=True):
                    for slot, v in enumerate(members):
                        out[slot, b] = 0 if image is None else _crop(image, plan, v, b, size=out.shape[2])
            then(begin, end)

        in_pieces(self._pool, work, len(row_B))
        return valid_B

    def _decode(self, row: int) -> Image.Image | None:
        width, height = int(self._beton.width_N[row]), int(self._beton.height_N[row])
        try:
            data = self._beton.read(self._descriptor, row)
            if self._beton.mode_N[row] == RAW:
                return Image.frombytes("RGB", (width, height), data)
            image = Image.open(io.BytesIO(data)).convert("RGB")
        except Exception:  # Pillow raises far more than OSError for damaged bytes; the caller counts and masks the row
            return None
        return image if image.size == (width, height) else None

    def close(self) -> None:
        """See Engine."""
        if self._descriptor >= 0:
            self._pool.shutdown()
            os.close(self._descriptor)
            self._descriptor = -1


def _crop(image: Image.Image, plan: ViewPlan, v: int, b: int, *, size: int) -> np.ndarray:
    top, left, height, width = (int(edge) for edge in plan.box_VB4[v, b])
    crop = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(crop)[:, ::-1] if plan.flip_VB[v, b] else np.asarray(crop)
