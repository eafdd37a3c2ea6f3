"""What a user would pick instead of viewmill's pipeline, each milling the same JPEG bytes into two SimCLR views.

The recipe is torchvision's: a random crop of 0.2 to 1 of the area, resized bilinearly with antialiasing, horizontal flip for
0.5, ColorJitter(0.4, 0.4, 0.4, 0.1) for 0.8, greyscale for 0.2, Gaussian blur for 0.5 (kernel a tenth of the side, made odd)
and normalised float32. What a library lacks or does otherwise, the docstring of its contender says. None works ahead into
the next pass, or on once one is over, so they can take turns in one process. The first pass also starts the workers.
"""

import importlib
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numba
import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ..files.opening import make_bytes, open_to_read
from ..pipeline.beton.reader import JPEG, Beton, open_beton
from ..pipeline.engines import kernels
from ..pipeline.engines.libffcv import TJFLAG_ACCURATEDCT, TJPF_RGB, EngineUnavailable
from ..pipeline.threads import Scratch, in_pieces
from ..pipeline.views.recipe import IMAGENET_MEAN, IMAGENET_STD

SCALE, SIGMA, DALI, AHEAD = (0.2, 1.0), (0.1, 2.0), "nvidia-dali-cuda120", 2  # AHEAD: batches, DALI's own default


class Data(NamedTuple):
    """The same images twice, and how to mill them: `beton` holds the JPEG bytes that the files of `folder` hold."""

    beton: Path
    folder: Path
    size: int
    batch: int
    threads: int


class Contender(Protocol):
    """A pipeline built for some Data."""

    def run(self) -> int:
        """Go over the data once, the ragged last batch included; returns how many images were milled."""
        ...

    def close(self) -> None:
        """End workers and threads."""


class _Peer:
    def __init__(self, source: Any, once: Callable[[Any], int]) -> None:
        self._source, self._once = source, once

    def run(self) -> int:
        return self._once(self._source)

    def close(self) -> None:
        self._source = None


def extract(beton: Beton, target: Path, limit: int = 0) -> int:
    """Write the JPEG bytes of the first `limit` rows (0: of all) to `target`/0/00000000.jpg and on; returns their number."""
    rows = min(limit or len(beton), len(beton))
    if (beton.mode_N[:rows] != JPEG).any():
        raise ValueError(f"{beton.path} holds raw pixels, which no peer reads: convert photographs")
    (folder := target / "0").mkdir(parents=True, exist_ok=True)
    with open_to_read(beton.path) as file:
        for row in range(rows):
            make_bytes(folder / f"{row:08d}.jpg", beton.read(file.fileno(), row))
    return rows


def _needed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this peer needs {module} ({error}): pip install {package}") from error


def _twice(transform: Callable[[Any], Tensor], image: Any) -> tuple[Tensor, Tensor]:
    return transform(image), transform(image)


def _loader(data: Data, *steps: Callable[[Any], Any]) -> DataLoader:
    """`threads` workers over the files, started by the first pass. Spawned: forking beside others' threads can hang."""
    images = ImageFolder(data.folder, partial(_twice, transforms.Compose(steps)))
    workers: dict[str, Any] = {"num_workers": data.threads, "persistent_workers": True, "multiprocessing_context": "spawn"}
    return DataLoader(images, data.batch, shuffle=True, **workers)


def torchvision(data: Data, blur: Callable[[Any], Any] | None = None) -> Contender:
    """torchvision's transforms of Pillow images in the workers of a DataLoader: the recipe itself."""
    jitter, blur = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1), blur or transforms.GaussianBlur(data.size // 10 | 1, SIGMA)
    steps = [transforms.RandomResizedCrop(data.size, SCALE), transforms.RandomHorizontalFlip(0.5)]
    steps += [transforms.RandomApply([jitter], 0.8), transforms.RandomGrayscale(0.2), transforms.RandomApply([blur], 0.5)]
    steps += [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return _Peer(_loader(data, *steps), lambda loader: sum(len(views[0]) for views, _ in loader))


def _pillow_blur(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(random.uniform(*SIGMA)))


def torchvision_pillow(data: Data) -> Contender:
    """The same with MoCo v2's own blur, which is Pillow's: box filters in place of the kernel, and much faster."""
    return torchvision(data, _pillow_blur)


def kornia(data: Data) -> Contender:
    """Workers decode and crop by torchvision, kornia does the rest to whole batches in the main process.

    Made for a GPU, here on the workers' cores. It draws for each image, but the order of the jitter's steps for the batch.
    """
    augmentation, kernel = _needed("kornia.augmentation", "kornia"), data.size // 10 | 1
    steps = [augmentation.RandomHorizontalFlip(p=0.5), augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)]
    steps += [augmentation.RandomGrayscale(p=0.2), augmentation.RandomGaussianBlur((kernel, kernel), SIGMA, p=0.5)]
    steps += [augmentation.Normalize(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))]
    augment = nn.Sequential(*steps)
    torch.set_num_threads(data.threads)
    loader = _loader(data, transforms.RandomResizedCrop(data.size, SCALE), transforms.PILToTensor())
    return _Peer(loader, lambda loader: sum(len([augment(v.float().div_(255)) for v in views][-1]) for views, _ in loader))


def _dali(data: Data, graph: Callable[[Any], Any]) -> Contender:
    """One DALI pipeline on the CPU, driven batch by batch to the end of a pass. Batches stay in DALI's memory, uncopied.

    It pads the last batch: up to `batch` - 1 images are milled for nothing, so choose a whole number of batches.
    """
    fn = _needed("nvidia.dali.fn", DALI)

    @_needed("nvidia.dali", DALI).pipeline_def(enable_conditionals=True, prefetch_queue_depth=AHEAD)
    def build():
        files, _ = fn.readers.file(file_root=str(data.folder), random_shuffle=True, pad_last_batch=True, name="files")
        return graph(files)

    pipeline: Any = build(batch_size=data.batch, num_threads=data.threads, device_id=None)
    pipeline.build()
    images = int(pipeline.epoch_size("files"))

    def once(pipeline: Any) -> int:
        milled = 0
        for first in range(-AHEAD * data.batch, images, data.batch):
            if first >= 0:
                milled += len(pipeline.share_outputs()[0])
                pipeline.release_outputs()
            if first + AHEAD * data.batch < images:
                pipeline.schedule_run()
        return min(milled, images)

    return _Peer(pipeline, once)


def dali(data: Data, window: int = 0) -> Contender:
    """DALI's own operations on the CPU; each view decodes the part of the JPEG that it shows.

    color_twist stands in for ColorJitter: always in one order, contrast about 128 and not the image's mean, hue turned
    linearly. Blur's `window` is a tenth of the side if 0. Chances are conditionals, so nothing is computed in vain.
    """
    fn, kinds = _needed("nvidia.dali.fn", DALI), _needed("nvidia.dali.types", DALI)
    mean, std = ([255 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))

    def view(files):
        image = fn.decoders.image_random_crop(files, random_area=SCALE)
        image = fn.resize(image, size=(data.size, data.size), interp_type=kinds.INTERP_LINEAR, antialias=True)
        if fn.random.coin_flip(probability=0.8, dtype=kinds.BOOL):
            factors = {name: fn.random.uniform(range=(0.6, 1.4)) for name in ("brightness", "contrast", "saturation")}
            image = fn.color_twist(image, hue=fn.random.uniform(range=(-36.0, 36.0)), **factors)
        if fn.random.coin_flip(probability=0.2, dtype=kinds.BOOL):
            image = fn.hsv(image, saturation=0.0)
        if fn.random.coin_flip(probability=0.5, dtype=kinds.BOOL):
            image = fn.gaussian_blur(image, sigma=fn.random.uniform(range=SIGMA), window_size=window or data.size // 10 | 1)
        mirror = fn.random.coin_flip(probability=0.5)
        return fn.crop_mirror_normalize(image, dtype=kinds.FLOAT, output_layout="CHW", mean=mean, std=std, mirror=mirror)

    return _dali(data, lambda files: (view(files), view(files)))


def decode_dali(data: Data) -> Contender:
    """DALI reads the files and decodes them once, at full size; no more."""
    return _dali(data, _needed("nvidia.dali.fn", DALI).decoders.image)


def _share_(step: nn.Module, chance: float, image_BCHW: Tensor) -> Tensor:
    chosen = (torch.rand(len(image_BCHW)) < chance).nonzero()[:, 0]
    if len(chosen):
        image_BCHW[chosen] = step(image_BCHW[chosen])
    return image_BCHW


def ffcv(data: Data) -> Contender:
    """ffcv.Loader as it comes, two views of one field: each decodes the whole image anew, with the fast DCT.

    FFCV crops (OpenCV's area resize), flips, has brightness, contrast and saturation, in this order, each with a chance of
    0.8 of its own. Hue, greyscale and blur, which it lacks: torchvision's v2 on a share of a batch, drawn once for all.
    """
    library, own, fields = (_needed(f"ffcv.{name}", "ffcv") for name in ("loader", "transforms", "fields.decoders"))
    specification, blur = _needed("ffcv.pipeline", "ffcv").PipelineSpec, v2.GaussianBlur(data.size // 10 | 1, SIGMA)

    def view() -> Any:
        steps = [own.RandomHorizontalFlip(0.5), own.RandomBrightness(0.4, 0.8), own.RandomContrast(0.4, 0.8)]
        steps += [own.RandomSaturation(0.4, 0.8), own.ToTensor(), own.ToTorchImage(channels_last=False)]
        colours = ((v2.ColorJitter(hue=0.1), 0.8), (v2.Grayscale(3), 0.2), (blur, 0.5))
        steps += [v2.Lambda(partial(_share_, step, chance)) for step, chance in colours]
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        return specification("image", fields.RandomResizedCropRGBImageDecoder((data.size, data.size), SCALE), steps)

    given = {"order": library.OrderOption.RANDOM, "pipelines": {"image": view(), "second": view(), "label": None}}
    loader = library.Loader(str(data.beton), data.batch, data.threads, True, drop_last=False, **given)
    return _Peer(loader, lambda loader: sum(len(first) for first, _ in loader))


@numba.njit(nogil=True)
def _decode(descriptor, places, begin, end, encoded, decoded):
    """Read and decode rows `begin` to `end` of `places[N, 4]` (offset, size, height, width); returns how many went well."""
    good = 0
    for row in range(begin, end):
        offset, size, height, width = places[row]
        source, target, decoder = encoded.ctypes.data, decoded.ctypes.data, kernels._new_decoder()
        count = kernels._pread(descriptor, source, size, offset)
        code = kernels._decompress(decoder, source, size, target, width, 0, height, TJPF_RGB, TJFLAG_ACCURATEDCT)
        kernels._end_decoder(decoder)
        good += count == size and code == 0
    return good


def decode(data: Data) -> Contender:
    """No pipeline but its limit: libjpeg-turbo decodes every row of the .beton once, at full size, with the accurate DCT."""
    try:
        kernels.bind()
    except EngineUnavailable as error:
        raise ImportError(str(error)) from error
    beton, scratch = open_beton(data.beton), Scratch()
    places_N4 = np.stack((beton.offset_N, beton.size_N, beton.height_N, beton.width_N), axis=-1).astype(np.int64)

    def once(places_N4: np.ndarray) -> int:
        good = list[int]()
        with open_to_read(beton.path) as file, ThreadPoolExecutor(data.threads) as pool:

            def work(begin: int, end: int) -> None:
                encoded = scratch.take("encoded", places_N4[begin:end, 1].max())
                decoded = scratch.take("decoded", places_N4[begin:end, 2:].prod(axis=1).max() * 3)
                good.append(_decode(file.fileno(), places_N4, begin, end, encoded, decoded))

            in_pieces(pool, work, len(beton))
        return sum(good)

    return _Peer(places_N4, once)


_ALL = (torchvision, torchvision_pillow, dali, kornia, ffcv, decode, decode_dali)
PEERS: dict[str, Callable[[Data], Contender]] = {peer.__name__.replace("_", " "): peer for peer in _ALL}
PEERS["dali, blur to 3 sigma"] = partial(dali, window=13)  # as it would choose for the largest sigma: a third cheaper
