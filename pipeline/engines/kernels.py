"""Compiled, nogil loops of the ffcv engine: read, decode once, crop and resize V times while the pixels are hot in cache.

Resizing is the antialiased triangle filter (Pillow's and torchvision's antialiased bilinear, DALI's `antialias=True`).
Vertical first: that pass runs along whole rows, which the compiler vectorises, and only its short result is left for the
horizontal pass. The sum between the passes stays in float32, where Pillow rounds to 8 bits: at most 1 level apart.

Compiled code is cached on disk, which FFCV's own ctypes functions prevent: FFCV's C decoder and pread are bound by name
(llvmlite's symbol table) instead. `parallel=True` is avoided: numba's workqueue aborts on concurrent callers, its OpenMP
layer kills forked children. Threads are ours; the kernels only have to let go of the interpreter lock.
"""

import ctypes

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..beton.reader import RAW
from ..compiled import compiled
from . import libffcv
from .libffcv import TJFLAG_ACCURATEDCT, TJPF_RGB

OK, CUT_SHORT, UNDECODABLE = 0, 1, 2  # what became of a sample

# libjpeg-turbo through FFCV's library. Not FFCV's imdecode: that keeps one decoder a thread, in which a stream that lacks
# its tables finds those of the image before (a new one takes 1 us), and asks for the fast DCT: with the accurate one the
# pixels are Pillow's to the bit for 1 % of the time.
_new_decoder = types.ExternalFunction("viewmill_tjInitDecompress", types.uintp())
_decompress = types.ExternalFunction(
    "viewmill_tjDecompress2", types.int32(types.uintp, types.uintp, types.uint64, types.uintp, *[types.int32] * 5)
)
_end_decoder = types.ExternalFunction("viewmill_tjDestroy", types.int32(types.uintp))
_pread = types.ExternalFunction("viewmill_pread", types.int64(types.int32, types.uintp, types.uint64, types.int64))


def bind() -> None:
    """Give the compiled code its C functions; raises native.EngineUnavailable where FFCV is missing."""
    names = ("tjInitDecompress", "tjDecompress2", "tjDestroy")
    functions = {f"viewmill_{name}": getattr(libffcv.library(), name) for name in names}
    functions["viewmill_pread"] = ctypes.CDLL(None).pread64
    for name, function in functions.items():
        llvmlite.binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)


@intrinsic
def _weighted_pixel(typingctx, source, weight, taps, target):
    """Four bytes at `target` of 0.5 + sum over `taps` of weight[t] * pixels[t], pixels of three floats from `source` on.

    Written as vectors of four lanes, portable LLVM: red, green, blue and the next pixel's red, which nobody reads. Loops do
    not become that by themselves, and as three scalars a tap this took most of a view's time (230 us at 224 px; now 100).
    """
    signature = types.void(types.uintp, types.uintp, types.intp, types.uintp)

    def generate(context, builder, signature, args):
        one, four, index = ir.FloatType(), ir.VectorType(ir.FloatType(), 4), ir.IntType(32)
        bytes4, undefined = ir.VectorType(ir.IntType(8), 4), ir.Constant(four, ir.Undefined)
        pixels = builder.inttoptr(args[0], one.as_pointer())
        weights = builder.inttoptr(args[1], one.as_pointer())
        total = cgutils.alloca_once_value(builder, ir.Constant(four, [0.5] * 4))
        with cgutils.for_range(builder, args[2]) as tap:
            place = builder.gep(pixels, [builder.mul(tap.index, ir.Constant(tap.index.type, 3))])
            pixel = builder.load(builder.bitcast(place, four.as_pointer()), align=4)
            single = builder.insert_element(undefined, builder.load(builder.gep(weights, [tap.index])), index(0))
            spread = builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(index, 4), [0] * 4))
            product = builder.fmul(pixel, spread, flags=["contract"])
            builder.store(builder.fadd(builder.load(total), product, flags=["contract"]), total)
        whole = builder.trunc(builder.fptosi(builder.load(total), ir.VectorType(index, 4)), bytes4)
        builder.store(whole, builder.inttoptr(args[3], bytes4.as_pointer()), align=1)
        return context.get_dummy_value()

    return signature, generate


@compiled()
def triangle_taps(length, size, first, weight):
    """Fill `first[size]` and `weight[size, taps]` for resizing `length` pixels to `size`; returns the taps used."""
    scale = length / size
    support = max(scale, 1.0)
    widest = 0
    for i in range(size):
        centre = (i + 0.5) * scale
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), length)
        total = 0.0
        for j in range(high - low):
            w = max(1.0 - abs((j + low - centre + 0.5) / support), 0.0)
            weight[i, j] = w
            total += w
        for j in range(high - low):
            weight[i, j] /= total
        weight[i, high - low :] = 0.0
        first[i] = low
        widest = max(widest, high - low)
    return widest


@compiled(fastmath={"contract"})
def weighted_rows(flat, begin, stride, columns, weight, taps, line):
    """`line[:columns]`: the sum of `taps` rows of bytes, `stride` apart from `begin` on; the first three in one go."""
    first = flat[begin : begin + columns]
    w0 = weight[0]
    if taps == 1:
        for c in range(columns):
            line[c] = w0 * np.float32(first[c])
        return
    second, w1 = flat[begin + stride : begin + stride + columns], weight[1]
    if taps == 2:
        for c in range(columns):
            line[c] = w0 * np.float32(first[c]) + w1 * np.float32(second[c])
        return
    third, w2 = flat[begin + 2 * stride : begin + 2 * stride + columns], weight[2]
    for c in range(columns):
        line[c] = w0 * np.float32(first[c]) + w1 * np.float32(second[c]) + w2 * np.float32(third[c])
    for t in range(3, taps):
        more, w = flat[begin + t * stride : begin + t * stride + columns], weight[t]
        for c in range(columns):
            line[c] += w * np.float32(more[c])


@compiled()
def resize_crop(pixels, box, flip, out, line, first_y, weight_y, first_x, weight_x):
    """Resize `box` (top, left, height, width) of `pixels[H, W, 3]` to `out[S, S, 3]`; the rest is scratch.

    `line` has room for `taps` pixels and one float past the width: there the weights are 0.
    """
    top, left, height, width = box[0], box[1], box[2], box[3]
    size = out.shape[0]
    taps_y = triangle_taps(height, size, first_y, weight_y)
    taps_x = triangle_taps(width, size, first_x, weight_x)
    stride = pixels.shape[1] * 3
    flat = pixels.reshape(-1)
    line[width * 3 : width * 3 + taps_x * 3 + 1] = 0.0
    source, weights, weight_bytes = line.ctypes.data, weight_x.ctypes.data, weight_x.shape[1] * 4
    last = np.empty(4, np.uint8)
    for y in range(size):
        begin = (top + first_y[y]) * stride + left * 3
        weighted_rows(flat, begin, stride, width * 3, weight_y[y], min(taps_y, height - first_y[y]), line)
        # From left to right, since a pixel's fourth byte lies on its right neighbour; the last of a view has none.
        target = out.ctypes.data + y * size * 3
        for column in range(size - 1):
            x = size - 1 - column if flip else column
            _weighted_pixel(source + first_x[x] * 12, weights + x * weight_bytes, taps_x, target + column * 3)  # pyright: ignore[reportCallIssue]
        x = 0 if flip else size - 1
        _weighted_pixel(source + first_x[x] * 12, weights + x * weight_bytes, taps_x, last.ctypes.data)  # pyright: ignore[reportCallIssue]
        out[y, size - 1] = last[:3]


@compiled()
def frame_is(stream, size, height, width):
    """Whether the JPEG in `stream[:size]` says it is height x width. One of another size is scaled to fit in silence.

    Goes from marker to marker as libjpeg does, which passes over stray bytes.
    """
    at = 2
    while at + 9 <= size:
        marker = stream[at + 1]
        if stream[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD7:  # no length follows
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:
            return stream[at + 5] * 256 + stream[at + 6] == height and stream[at + 7] * 256 + stream[at + 8] == width
        else:
            at += 2 + max(2, stream[at + 2] * 256 + stream[at + 3])
    return False


@compiled()
def decode_and_crop(descriptor, places, boxes, flips, group, slot, outs, status, begin, end, encoded, decoded):
    """Mill images `begin` to `end` of a batch: bytes of the file -> uint8 crops in `outs[group][slot, image]`.

    `places[B, 5]` int64: offset, size, mode, height, width; `boxes[V, B, 4]`, `flips[V, B]`; `group[V]`, `slot[V]` say
    where view v goes. `encoded` and `decoded` are this thread's scratch. `status[B]` says what became of each image;
    a failed one leaves black crops.
    """
    views = boxes.shape[0]
    largest = 1
    for v in range(views):
        largest = max(largest, outs[group[v]].shape[2])
    longest = max(1, boxes[:, begin:end, 2:].max())
    taps = 2 * int(np.ceil(max(1.0, longest / smallest(outs)))) + 2
    first_y, first_x = np.empty(largest, np.int64), np.empty(largest, np.int64)
    weight_y, weight_x = np.empty((largest, taps), np.float32), np.empty((largest, taps), np.float32)
    line = np.empty((longest + taps + 1) * 3, np.float32)
    for b in range(begin, end):
        offset, size, mode, height, width = places[b, 0], places[b, 1], places[b, 2], places[b, 3], places[b, 4]
        status[b] = OK
        done = 0
        while done < size:
            count = _pread(descriptor, encoded.ctypes.data + done, size - done, offset + done)
            if count <= 0:
                status[b] = CUT_SHORT
                break
            done += count
        area = height * width * 3
        pixels = encoded[:area] if mode == RAW else decoded[:area]
        if status[b] == OK and mode != RAW:
            code = -1
            if frame_is(encoded, size, height, width):
                source, target, decoder = encoded.ctypes.data, decoded.ctypes.data, _new_decoder()
                code = _decompress(decoder, source, size, target, width, 0, height, TJPF_RGB, TJFLAG_ACCURATEDCT)
                _end_decoder(decoder)
            if code != 0:
                status[b] = UNDECODABLE
        image = pixels.reshape((height, width, 3))
        for v in range(views):
            out = outs[group[v]][slot[v], b]
            if status[b] == OK:
                resize_crop(image, boxes[v, b], flips[v, b], out, line, first_y, weight_y, first_x, weight_x)
            else:
                out[:] = 0


@compiled()
def smallest(outs):
    """The smallest view size among `outs`, each [views, B, S, S, 3]."""
    size = outs[0].shape[2]
    for i in range(len(outs)):
        size = min(size, outs[i].shape[2])
    return size
