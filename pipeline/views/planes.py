"""What photometrics_host.py does to one view, compiled: its pixels as three planes of float32, [3, P] in 0..1, in place."""

import numpy as np

from ..compiled import FAST, compiled

FLOAT32, FLOAT16, BFLOAT16 = range(3)
REACH_SIGMAS = 4.0  # exp(-4 * 4 / 2) = 3e-4

# Each of these returns the sums of the channels, of which the next one takes its mean colour.


@compiled(fastmath=FAST)
def scale(source, planes):
    """Bytes to planes in 0..1."""
    red, green, blue, unit = planes[0], planes[1], planes[2], np.float32(1 / 255)
    s0 = s1 = s2 = np.int64(0)
    for p in range(planes.shape[1]):
        r, g, b = source[3 * p], source[3 * p + 1], source[3 * p + 2]
        s0, s1, s2 = s0 + r, s1 + g, s2 + b
        red[p], green[p], blue[p] = unit * np.float32(r), unit * np.float32(g), unit * np.float32(b)
    return np.float32(s0 / 255), np.float32(s1 / 255), np.float32(s2 / 255)


@compiled(fastmath=FAST)
def affine(planes, map_233, sums):
    """clamp(M x + T mean(x)) as photometric has it, in place."""
    red, green, blue, count = planes[0], planes[1], planes[2], planes.shape[1]
    # numbers of their own: in an array the compiler would read them again for every pixel
    m00, m01, m02 = map_233[0, 0, 0], map_233[0, 0, 1], map_233[0, 0, 2]
    m10, m11, m12 = map_233[0, 1, 0], map_233[0, 1, 1], map_233[0, 1, 2]
    m20, m21, m22 = map_233[0, 2, 0], map_233[0, 2, 1], map_233[0, 2, 2]
    shift = (map_233[1, :, 0] * sums[0] + map_233[1, :, 1] * sums[1] + map_233[1, :, 2] * sums[2]) / np.float32(count)
    t0, t1, t2 = shift[0], shift[1], shift[2]
    s0 = s1 = s2 = np.float32(0)
    for p in range(count):
        r, g, b = red[p], green[p], blue[p]
        x = _clamped(m00 * r + m01 * g + m02 * b + t0)
        y = _clamped(m10 * r + m11 * g + m12 * b + t1)
        z = _clamped(m20 * r + m21 * g + m22 * b + t2)
        red[p], green[p], blue[p] = x, y, z
        s0, s1, s2 = s0 + x, s1 + y, s2 + z
    return s0, s1, s2


@compiled(inline=True)
def _clamped(x):
    return min(max(x, np.float32(0)), np.float32(1))


@compiled(fastmath=FAST)
def shift_hue(planes, sextants):
    """photometric.shift_hue, a pixel at a time and without branches."""
    red, green, blue = planes[0], planes[1], planes[2]
    one, two, four, six = np.float32(1), np.float32(2), np.float32(4), np.float32(6)
    s0 = s1 = s2 = np.float32(0)
    for p in range(planes.shape[1]):
        r, g, b = red[p], green[p], blue[p]
        value = max(r, max(g, b))
        chroma = value - min(r, min(g, b))
        inverse = one / chroma if chroma > 0 else one
        high = (b - r) * inverse + two if value == g else (r - g) * inverse + four
        h = ((g - b) * inverse if value == r else high) + sextants + six
        r, g, b = _shade(value, chroma, h + 5), _shade(value, chroma, h + 3), _shade(value, chroma, h + 1)
        red[p], green[p], blue[p] = r, g, b
        s0, s1, s2 = s0 + r, s1 + g, s2 + b
    return s0, s1, s2


@compiled(inline=True)
def _shade(value, chroma, k):
    """A channel of the colour whose hue is `k` sextants away from where that channel fades."""
    k = np.float32(k) - np.float32(6) * np.floor(np.float32(k) * np.float32(1 / 6))
    return value - chroma * _clamped(min(k, np.float32(4) - k))


@compiled(fastmath=FAST)
def blur(plane, sigma, spare):
    """photometric.gaussian_blur of one plane, in place; beyond REACH_SIGMAS the weights count as 0."""
    side = plane.shape[0]
    reach = min(max(1, round(0.1 * side) // 2), int(np.ceil(REACH_SIGMAS * sigma)))
    weight = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2).astype(np.float32)
    weight /= 2 * weight.sum() - weight[0]
    row = np.empty(side + 2 * reach, np.float32)
    for y in range(side):
        row[reach : reach + side] = plane[y]
        for t in range(1, reach + 1):
            row[reach - t] = plane[y, t]
            row[reach + side - 1 + t] = plane[y, side - 1 - t]
        out, middle = spare[y], row[reach : reach + side]
        for x in range(side):
            out[x] = weight[0] * middle[x]
        for t in range(1, reach + 1):
            left, right, w = row[reach - t : reach - t + side], row[reach + t : reach + t + side], weight[t]
            for x in range(side):
                out[x] += w * (left[x] + right[x])
    for y in range(side):
        out, middle = plane[y], spare[y]
        for x in range(side):
            out[x] = weight[0] * middle[x]
        for t in range(1, reach + 1):
            above, below, w = spare[abs(y - t)], spare[side - 1 - abs(side - 1 - y - t)], weight[t]
            for x in range(side):
                out[x] += w * (above[x] + below[x])


@compiled(fastmath=FAST)
def solarise(planes):
    """torchvision.transforms.RandomSolarize(128), on 0..1."""
    x = planes.reshape(-1)
    for p in range(len(x)):
        x[p] = np.float32(1) - x[p] if x[p] >= np.float32(128 / 255) else x[p]


@compiled(fastmath=FAST)
def normalise(planes, mean, std):
    """(x - mean) / std, channel by channel."""
    for c in range(3):
        plane, middle, inverse = planes[c], mean[c], np.float32(1) / std[c]
        for p in range(len(plane)):
            plane[p] = (plane[p] - middle) * inverse


@compiled()
def interleave(planes, out, kind):
    """Planes to pixels, rounded to the nearest even where `out` holds the bits of half numbers."""
    if kind == FLOAT32:
        red, green, blue = planes[0], planes[1], planes[2]
        for p in range(len(red)):
            out[3 * p], out[3 * p + 1], out[3 * p + 2] = red[p], green[p], blue[p]
        return
    bits = planes.view(np.uint32)
    red, green, blue = bits[0], bits[1], bits[2]
    if kind == BFLOAT16:
        for p in range(len(red)):
            out[3 * p] = _bfloat16(red[p])
            out[3 * p + 1] = _bfloat16(green[p])
            out[3 * p + 2] = _bfloat16(blue[p])
    else:
        for p in range(len(red)):
            out[3 * p] = _float16(red[p])
            out[3 * p + 1] = _float16(green[p])
            out[3 * p + 2] = _float16(blue[p])


@compiled(inline=True)
def _bfloat16(bits):
    one = np.uint32(1)
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & one)) >> np.uint32(16)


@compiled(inline=True)
def _float16(bits):
    """Of a finite number below 65,504; one below 2**-14 is a whole number of 2**-24."""
    magnitude = np.uint32(bits & np.uint32(0x7FFFFFFF))
    odd = (magnitude >> np.uint32(13)) & np.uint32(1)
    normal = (magnitude - np.uint32(0x38000000) + np.uint32(0xFFF) + odd) >> np.uint32(13)
    small = np.uint32(np.rint(magnitude.view(np.float32) * np.float32(2**24)))
    sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
    return sign | (normal if magnitude >= np.uint32(0x38800000) else small)
