"""Seeded lattice noise, from which every texture here is made.  Arrays are float64, so that the last bit of a machine's
sine or exponential practically never reaches an 8-bit pixel."""

import numpy as np

_PLANE = np.random.default_rng(1701).random((256, 256))
_CUBE = np.random.default_rng(1702).random((64, 64, 64))


def _cell(x):
    whole = np.floor(x)
    part = x - whole
    return whole.astype(np.int64), part * part * (3 - 2 * part)


def noise2(x, y):
    """Smooth noise in [0, 1] at points of the plane; features about one unit wide."""
    i, u = _cell(np.asarray(x, float))
    j, v = _cell(np.asarray(y, float))
    i0, i1, j0, j1 = i & 255, (i + 1) & 255, j & 255, (j + 1) & 255
    low = _PLANE[i0, j0] * (1 - u) + _PLANE[i1, j0] * u
    high = _PLANE[i0, j1] * (1 - u) + _PLANE[i1, j1] * u
    return low * (1 - v) + high * v


def noise3(p):
    """Smooth noise in [0, 1] at points (…, 3)."""
    (i, u), (j, v), (k, w) = (_cell(p[..., axis]) for axis in range(3))
    i, j, k = (i & 63, (i + 1) & 63), (j & 63, (j + 1) & 63), (k & 63, (k + 1) & 63)

    def edge(b, c):
        return _CUBE[i[0], j[b], k[c]] * (1 - u) + _CUBE[i[1], j[b], k[c]] * u

    return (edge(0, 0) * (1 - v) + edge(1, 0) * v) * (1 - w) + (edge(0, 1) * (1 - v) + edge(1, 1) * v) * w


def fbm2(x, y, octaves=4, gain=0.5):
    """Octaves of noise2, in [0, 1], mean one half."""
    total, weight, norm = 0.0, 1.0, 0.0
    for octave in range(octaves):
        scale = 2.03**octave
        total = total + weight * noise2(x * scale + 17.3 * octave, y * scale - 9.1 * octave)
        norm += weight
        weight *= gain
    return total / norm


def fbm3(p, octaves=4, gain=0.5):
    """Octaves of noise3, in [0, 1], mean one half."""
    total, weight, norm = 0.0, 1.0, 0.0
    for octave in range(octaves):
        total = total + weight * noise3(p * 2.03**octave + 11.7 * octave)
        norm += weight
        weight *= gain
    return total / norm


def pick(a, b=0, c=0):
    """One random number in [0, 1) for each integer cell (windows, bricks, planks)."""
    a, b, c = (np.asarray(cell).astype(np.int64) for cell in (a, b, c))
    return _PLANE[(a * 7 + b * 131 + c * 57 + 13) & 255, (a * 61 + b * 19 + c * 101 + 5) & 255]


def step(low, high, x):
    """0 below ``low``, 1 above ``high``, smooth between."""
    s = np.clip((x - low) / (high - low), 0, 1)
    return s * s * (3 - 2 * s)


def mix(a, b, s):
    """Numbers: a where s = 0, b where s = 1."""
    return a + (b - a) * s


def tint(a, b, s):
    """Colours (3,) or (N, 3): a where s (N,) = 0, b where s = 1."""
    return mix(np.asarray(a, float), np.asarray(b, float), np.asarray(s, float)[..., None])
