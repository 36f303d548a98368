"""Procedural textures: reflectance at points of a surface, from coordinates in metres that are fixed to it.

`blur_m` is the width of a pixel on the surface; edges and details fade over it, which prevents aliasing.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_rooms.camera import Plane
from spd_rooms.materials import Colour, Material

Rgb = NDArray[np.floating[Any]]
"""Linear reflectance [3, N]."""
Texture = Callable[[Material, Plane, Plane, Plane], Rgb]

NOISE_SIZE = 1024
HASH_SIZE = 1 << 16
SMOOTH = 2.0


@cache
def noise_table(slope: float) -> NDArray[np.float32]:
    """Periodic noise with amplitude ∝ 1 / frequency^slope, mean 0, deviation 1: [NOISE_SIZE, NOISE_SIZE].

    Slope 1 has equal contrast in every octave (grain, stains); slope 2 is smooth (shapes out of focus).
    """
    white = np.random.default_rng(1).standard_normal((NOISE_SIZE, NOISE_SIZE))
    frequency = np.fft.fftfreq(NOISE_SIZE, 1 / NOISE_SIZE)
    radius = np.hypot(frequency[:, None], frequency[None, : NOISE_SIZE // 2 + 1])
    radius[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(white) / radius**slope, s=white.shape)
    table: NDArray[np.float32] = (noise / noise.std()).astype(np.float32)
    return table


@cache
def _hash_table() -> NDArray[np.float32]:
    return np.random.default_rng(2).random(HASH_SIZE, dtype=np.float32)


def cloud(s: Plane, t: Plane, period_m: float | tuple[float, float], key: int, slope: float = 1.0) -> Plane:
    """Noise of deviation 1 that repeats after `period_m` metres."""
    across, along = period_m if isinstance(period_m, tuple) else (period_m, period_m)
    # the offset keeps indices positive, where casting to integers rounds down; the table wraps
    column = (s * (NOISE_SIZE / across) + (64 * NOISE_SIZE + key * 37 % 769)).astype(np.int32)
    row = (t * (NOISE_SIZE / along) + (64 * NOISE_SIZE + key % 1021)).astype(np.int32)
    flat = ((row & (NOISE_SIZE - 1)) * NOISE_SIZE) + (column & (NOISE_SIZE - 1))
    noise: Plane = noise_table(slope).ravel().take(flat)
    return noise


def chance(i: Plane, j: Plane | float, key: int) -> Plane:
    """A number in [0, 1) for each pair of whole numbers."""
    mixed = (np.asarray(i) * 5923 + np.asarray(j) * 31337 + key).astype(np.int32)
    number: Plane = _hash_table().take(mixed & (HASH_SIZE - 1))
    return number


def line(x: Plane, width_m: float, blur_m: Plane) -> Plane:
    """Share of each pixel that a line of this width around x = 0 covers."""
    blur = np.maximum(blur_m, 1e-3)
    cover: Plane = np.clip((width_m / 2 - np.abs(x)) / blur + 0.5, 0, 1) * np.minimum(width_m / blur, 1)
    return cover


def bands(x: Plane, period_m: float, blur_m: Plane) -> Plane:
    """0 and 1 in turn, half a period each; ½ where the period is finer than a pixel."""
    phase = x / period_m
    to_edge_m = (np.abs(phase - np.floor(phase) - 0.5) - 0.25) * period_m
    wave = np.clip(to_edge_m / np.maximum(blur_m, 1e-3) + 0.5, 0, 1)
    fade = np.clip(period_m / (2 * blur_m) - 0.5, 0, 1)
    level: Plane = 0.5 + (wave - 0.5) * fade
    return level


def mix(base: Colour, accent: Colour, amount: Plane) -> Rgb:
    """From `base` (0) to `accent` (1)."""
    return np.stack([b + amount * (a - b) for b, a in zip(base, accent, strict=True)])


def plaster(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """One colour, faintly stained."""
    return mix(m.base, (0.0, 0.0, 0.0), 0.03 * cloud(s, t, 2.5, m.key))


def carpet(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Pile: strong fine noise."""
    return mix(m.base, m.accent, 0.5 + 0.3 * cloud(s, t, 0.7, m.key) + 0.2 * cloud(s, t, 4.1, m.key))


def weave(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Cloth: threads of two tones."""
    threads = bands(s, 0.012, blur_m) + bands(t, 0.012, blur_m)
    return mix(m.base, m.accent, 0.4 * threads + 0.1 * cloud(s, t, 0.9, m.key))


def stripes(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Stripes along t."""
    return mix(m.base, m.accent, bands(s, m.period_m, blur_m) + 0.05 * cloud(s, t, 1.5, m.key))


def checks(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Two crossing sets of stripes."""
    return mix(m.base, m.accent, 0.5 * (bands(s, m.period_m, blur_m) + bands(t, m.period_m, blur_m)))


def dots(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """A staggered grid of discs."""
    row = np.floor(t / m.period_m)
    x = s / m.period_m + 0.5 * (row % 2)
    radius = np.hypot(x - np.floor(x) - 0.5, t / m.period_m - row - 0.5)
    disc = np.clip((0.22 - radius) * m.period_m / np.maximum(blur_m, 1e-3) + 0.5, 0, 1)
    return mix(m.base, m.accent, disc + 0.05 * cloud(s, t, 1.5, m.key))


def wood(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Grain along t, or along s, by the key."""
    s, t = (s, t) if m.key % 2 else (t, s)
    grain = cloud(s, t, (m.period_m, 12 * m.period_m), m.key)
    return mix(m.base, m.accent, 0.5 + 0.35 * grain)


def planks(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Boards of their own shade, staggered, with dark gaps."""
    s, t = (s, t) if m.key % 2 else (t, s)
    length_m = 9 * m.period_m
    row = np.floor(t / m.period_m)
    along_m = s + length_m * chance(row, 7.0, m.key)
    board = np.floor(along_m / length_m)
    to_side_m = t - (np.round(t / m.period_m)) * m.period_m
    to_end_m = along_m - np.round(along_m / length_m) * length_m
    gap = np.maximum(line(to_side_m, 0.004, blur_m), line(to_end_m, 0.004, blur_m))
    grain = cloud(along_m, t, (3.0, 0.3), m.key)
    shade = 0.75 + 0.35 * chance(row, board, m.key) + 0.06 * grain
    return mix(m.base, m.accent, gap) * shade


def tiles(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Square tiles of nearly one shade, with joints."""
    i, j = np.floor(s / m.period_m), np.floor(t / m.period_m)
    to_joint_m = [x - np.round(x / m.period_m) * m.period_m for x in (s, t)]
    joint = np.maximum(line(to_joint_m[0], 0.008, blur_m), line(to_joint_m[1], 0.008, blur_m))
    shade = 0.9 + 0.15 * chance(i, j, m.key) + 0.04 * cloud(s, t, 1.1, m.key)
    return mix(m.base, m.accent, joint) * shade


def books(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Spines of any colour, with a title."""
    spine = np.floor(s / m.period_m)
    edge = line(s - np.round(s / m.period_m) * m.period_m, 0.004, blur_m)
    colour_3N = np.stack([chance(spine, float(c), m.key) ** 1.5 for c in range(3)])
    title = line(t - 0.05 * (chance(spine, 9.0, m.key) - 0.3), 0.05, blur_m) * (chance(spine, 11.0, m.key) > 0.4)
    rgb_3N: Rgb = (colour_3N + title * 0.4 * (chance(spine, 12.0, m.key) - 0.4)) * (1 - 0.8 * edge)
    return rgb_3N


def painting(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Soft shapes in the two colours and what lies between."""
    first, second = (cloud(s, t, 3 * m.period_m, m.key + shift, SMOOTH) for shift in (0, 401))
    return mix(m.base, m.accent, 0.5 + 0.6 * np.sin(4 * first)) * (0.8 + 0.3 * np.sin(5 * second))


def leaves(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Light and dark leaves."""
    return mix(m.base, m.accent, 0.4 + 0.6 * cloud(s, t, 2 * m.period_m, m.key))


def outdoors(m: Material, s: Plane, t: Plane, blur_m: Plane) -> Rgb:
    """Sky above something darker, out of focus."""
    height = t + 0.15 * cloud(s, t, 2.0, m.key, SMOOTH)
    return mix(m.base, m.accent, np.clip(0.5 + 5 * height, 0, 1)) * (1 + 0.12 * cloud(s, t, 1.3, m.key, SMOOTH))


TEXTURES: dict[str, Texture] = {
    texture.__name__: texture
    for texture in (
        plaster,
        carpet,
        weave,
        stripes,
        checks,
        dots,
        wood,
        planks,
        tiles,
        books,
        painting,
        leaves,
        outdoors,
    )
}
