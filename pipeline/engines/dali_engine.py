"""The dali engine: NVIDIA's DALI decodes and resizes, on the cores or on a GPU; rows, boxes and flips come from the plan.

DALI is fed from outside, a batch at a time, and keeps no state of its own: no reader, shuffling, seed or checkpoint.

On the cores it decodes with libjpeg-turbo, accurate DCT and fancy upsampling, to Pillow's pixels to the bit. Its resizing is
the same triangle filter, but where that reaches past the crop, DALI repeats the crop's outermost pixel while Pillow leaves
the missing ones out: the outermost pixels of a shrunk view differ by more than the 1 level of rounding of all others.

Shape suffixes: V = views of an image, B = images of the batch, n = images of one run of DALI.
"""

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from ...files.opening import descriptor_to_read
from ..beton.reader import JPEG, RAW, Beton, InvalidBeton
from ..threads import in_pieces
from ..views.plan import ViewPlan
from .engine import Then, nothing
from .libffcv import EngineUnavailable

if TYPE_CHECKING:
    from nvidia.dali.pipeline import Pipeline

INSTALL = "pip install 'viewmill[dali-cuda13]', or 'viewmill[dali-cuda12]' for a driver of CUDA 12"
KEPT = 4  # built pipelines: two recipes, each of JPEG and of raw rows
PIXELS_A_RUN = 1 << 30  # bytes: DALI holds all decoded images of a run at once, the other engines one a thread
TRIAL_SIDE, TRIAL_LIMIT = 64, 2.0  # the known picture, and how many levels off its pixels may be on average


def fault(device: str) -> str:
    """Why the engine does not work here on `device` ("cpu" or "gpu") and which command mends it; "" where it works."""
    try:
        from nvidia.dali import pipeline  # noqa: F401
    except ModuleNotFoundError:
        return f"DALI is not installed: {INSTALL}"
    except (ImportError, OSError) as error:
        return f"DALI does not load ({error}): {INSTALL}"
    if device == "gpu":
        from torch import cuda

        if not cuda.is_available():
            return "there is no CUDA device: mend the driver until nvidia-smi lists one, or decode on the cores"
    return ""


class _Batch(NamedTuple):
    """A batch on its way: what was read of each image (None: unreadable), and where its crops go."""

    stored_B: list[np.ndarray | None]
    pixels_B: np.ndarray
    plan: ViewPlan
    outs: tuple[np.ndarray, ...]
    valid_B: np.ndarray


class DaliEngine:
    """Decodes each image once and cuts all its views in one DALI pipeline, on the cores or on the current CUDA device.

    Raises native.EngineUnavailable where DALI or the GPU is missing. A GPU that fails on a known picture is warned of and
    left alone: the cores take its place.
    """

    def __init__(self, beton: Beton, threads: int, *, device: Literal["cpu", "gpu"] = "cpu") -> None:
        if reason := fault(device):
            raise EngineUnavailable(reason)
        self._beton, self._threads = beton, threads
        self._device_id: int | None = None
        self._pipelines: dict[tuple[int, tuple[int, ...]], Pipeline] = {}
        if device == "gpu":
            from torch import cuda

            self._device_id = cuda.current_device()  # where the loader's tensors go
            if reason := self._trial():
                warnings.warn(f"DALI decodes on the cores, not on the GPU: {reason}", stacklevel=2)
                self._device_id = None
        self._descriptor = descriptor_to_read(beton.path)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="viewmill-dali")

    def crops(self, row_B: np.ndarray, plan: ViewPlan, outs: tuple[np.ndarray, ...], then: Then = nothing) -> np.ndarray:
        """See Engine. Raises RuntimeError where DALI fails on a known picture as well: then no row is to blame."""
        count = len(row_B)
        pixels_B = self._beton.height_N[row_B].astype(np.int64) * self._beton.width_N[row_B] * 3
        batch = _Batch([None] * count, pixels_B, plan, outs, np.zeros(count, bool))

        def read(begin: int, end: int) -> None:
            for b in range(begin, end):
                batch.stored_B[b] = self._read(int(row_B[b]))

        in_pieces(self._pool, read, count)
        readable_B = np.array([stored is not None for stored in batch.stored_B], bool)
        for mode in (JPEG, RAW):
            self._mill(mode, np.flatnonzero(readable_B & (self._beton.mode_N[row_B] == mode)), batch)
        if not batch.valid_B[readable_B].all() and (reason := self._trial()):
            raise RuntimeError(f"DALI no longer works, whatever the row: {reason}")
        for out in outs:
            out[:, ~batch.valid_B] = 0
        in_pieces(self._pool, then, count)
        return batch.valid_B

    def _read(self, row: int) -> np.ndarray | None:
        """The stored bytes of `row`: uint8 [bytes] of a JPEG, [H, W, 3] of a raw one; None where they are not its image.

        nvImageCodec's own parser looks first, 3 us. A header that it cannot read is a use after free in DALI 2.4.0, which
        throws while other threads still decode: most often a crash. One of another size could take any memory.
        """
        from nvidia import nvimgcodec  # needed by DALI, so installed with it

        height, width = int(self._beton.height_N[row]), int(self._beton.width_N[row])
        try:
            stored = np.frombuffer(self._beton.read(self._descriptor, row), np.uint8)
            if self._beton.mode_N[row] == RAW:
                return stored.reshape(height, width, 3)
            header = nvimgcodec.CodeStream(stored)  # pyright: ignore[reportAttributeAccessIssue]
            fits = (header.codec_name, header.precision, header.height, header.width) == ("jpeg", 8, height, width)
        except (InvalidBeton, OSError, RuntimeError):
            return None
        return stored if fits else None

    def _mill(self, mode: int, at_n: np.ndarray, batch: _Batch) -> None:
        """Cut the views of the images `at_n` of the batch, all of `mode`, and mark as valid those that decode.

        One bad image fails DALI's whole run, so a failed run is halved until the bad ones are alone. Which they are is left
        to DALI: native.decodes is stricter, and asked after a failure only, it would judge an image by its neighbours.
        """
        stored_n = [stored for b in at_n if (stored := batch.stored_B[b]) is not None]
        if not stored_n:
            return
        views_V = None
        if len(at_n) == 1 or batch.pixels_B[at_n].sum() <= PIXELS_A_RUN:
            views_V = self._run(mode, stored_n, batch, at_n)
        if views_V is None:
            for half_n in np.array_split(at_n, 2) if len(at_n) > 1 else ():
                self._mill(mode, half_n, batch)
            return

        def copy(begin: int, end: int) -> None:
            for out, members in zip(batch.outs, batch.plan.recipe.groups, strict=True):
                for slot, v in enumerate(members):
                    for i, b in enumerate(at_n[begin:end], begin):
                        crop = views_V[v][i]
                        out[slot, b] = crop[:, ::-1] if batch.plan.flip_VB[v, b] else crop

        in_pieces(self._pool, copy, len(at_n))
        batch.valid_B[at_n] = True

    def _run(self, mode: int, stored_n: list[np.ndarray], batch: _Batch, at_n: np.ndarray) -> list[np.ndarray] | None:
        """Each view as uint8 [n, S, S, 3], valid until the next run; None where DALI failed on one of the images."""
        key = mode, tuple(view.size for view in batch.plan.recipe.views)
        pipeline = self._pipelines.pop(key, None)
        if pipeline is None or (pipeline.max_batch_size or 0) < len(at_n):
            pipeline = None  # its threads end before those of the new one start
            pipeline = self._build(*key, images=len(batch.stored_B))
        try:
            views_V = _cut(pipeline, stored_n, batch.plan.box_VB4[:, at_n].swapaxes(0, 1))
        except RuntimeError:
            return None  # and the pipeline, which DALI calls no longer valid, goes
        self._pipelines[key] = pipeline  # the last used stands last
        for oldest in list(self._pipelines)[:-KEPT]:
            del self._pipelines[oldest]
        return views_V

    def _build(self, mode: int, sizes_V: Sequence[int], images: int) -> "Pipeline":
        """The pipeline of up to `images` rows of `mode`, each cut into views of `sizes_V`."""
        from nvidia.dali import fn
        from nvidia.dali.pipeline import Pipeline
        from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType

        gpu = self._device_id is not None
        pipeline = Pipeline(images, self._threads, self._device_id, prefetch_queue_depth=1)
        with pipeline:
            box: Any = fn.external_source(name="box", dtype=DALIDataType.INT32, ndim=2)
            if mode == RAW:
                image: Any = fn.external_source(name="stored", dtype=DALIDataType.UINT8, ndim=3, layout="HWC")
                image = image.gpu() if gpu else image
            else:
                # Whole images: nvImageCodec 0.9 fails on a GPU when asked for a region (its issue 55). Pixels as stored, so
                # that a box fits: an orientation in the Exif data turns no image in the other engines either.
                image = fn.decoders.image(
                    fn.external_source(name="stored", dtype=DALIDataType.UINT8, ndim=1),
                    device="mixed" if gpu else "cpu",
                    output_type=DALIImageType.RGB,
                    adjust_orientation=False,
                    jpeg_fancy_upsampling=True,
                )
            # A slice and not resize's own region, whose filter would reach past the box.
            crops_V = [fn.slice(image, start=box[v, :2], shape=box[v, 2:], axes=(0, 1)) for v in range(len(sizes_V))]
            linear = {"interp_type": DALIInterpType.INTERP_LINEAR, "antialias": True, "dtype": DALIDataType.UINT8}
            views_V: Any = [fn.resize(crop, size=[side] * 2, **linear) for crop, side in zip(crops_V, sizes_V, strict=True)]
            pipeline.set_outputs(*views_V)
        pipeline.build()
        return pipeline

    def _trial(self) -> str:
        """Why a known picture does not come out of DALI as out of Pillow; "" where it does."""
        ramp = np.arange(TRIAL_SIDE, dtype=np.uint8) * (256 // TRIAL_SIDE)
        picture = np.stack((*np.meshgrid(ramp, ramp), np.full((TRIAL_SIDE, TRIAL_SIDE), 60, np.uint8)), axis=-1)
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "JPEG", quality=90)
        expected = np.asarray(Image.open(encoded)).astype(np.int16)
        whole = np.array([[[0, 0, TRIAL_SIDE, TRIAL_SIDE]]], np.int32)
        try:
            pipeline = self._build(JPEG, (TRIAL_SIDE,), images=1)
            (view_n,) = _cut(pipeline, [np.frombuffer(encoded.getvalue(), np.uint8)], whole)
        except Exception as error:  # of the driver, the CUDA runtime or DALI, each of its own kind
            return "a known picture fails: " + " ".join(str(error).rpartition("encountered:")[2].split())
        off = float(np.abs(view_n[0] - expected).mean())
        return "" if off <= TRIAL_LIMIT else f"a known picture comes out {off:.1f} levels off"

    def close(self) -> None:
        """See Engine."""
        if self._descriptor >= 0:
            self._pipelines.clear()  # each ends its threads with its last reference
            self._pool.shutdown()
            os.close(self._descriptor)
            self._descriptor = -1


def _cut(pipeline: "Pipeline", stored_n: list[np.ndarray], box_nV4: np.ndarray) -> list[np.ndarray]:
    """Each view of the images, uint8 [n, S, S, 3] in DALI's own memory; raises RuntimeError where one does not decode."""
    pipeline.feed_input("stored", stored_n)
    pipeline.feed_input("box", np.ascontiguousarray(box_nV4))
    return [np.asarray(view.as_cpu().as_tensor()) for view in pipeline.run()]
