"""Materials: a texture, two random colours, and how a depth camera sees it.

Colours are drawn independently of where a material is used, so that colour does not give depth away.
"""

import colorsys
from dataclasses import dataclass

from numpy.random import Generator

Colour = tuple[float, float, float]
"""Linear reflectance of red, green and blue in [0, 1]."""


@dataclass(frozen=True)
class Material:
    """The appearance of a surface."""

    texture: str
    """Name of a function in `spd_rooms.textures`."""
    base: Colour
    """First colour of the texture."""
    accent: Colour
    """Second colour of the texture."""
    period_m: float = 1.0
    """Size of the texture's pattern on the surface, in metres."""
    key: int = 0
    """Seed of the pattern, so that surfaces with the same texture differ."""
    glow: float = 0.0
    """Light given off, as a multiple of its colour."""
    returns_depth: bool = True
    """False where an infrared depth camera measures nothing: panes, screens, lamps."""


def _colour(rng: Generator, saturation: float, dark: float, light: float) -> Colour:
    """A random hue at a random saturation up to the one given, value between `dark` and `light`."""
    return colorsys.hsv_to_rgb(rng.random(), saturation * rng.random() ** 2, rng.uniform(dark, light))


def _brown(rng: Generator) -> Colour:
    """The colour of some wood, from bleached to nearly black."""
    return colorsys.hsv_to_rgb(rng.uniform(0.04, 0.12), rng.uniform(0.1, 0.65), rng.uniform(0.08, 0.75))


def _near(rng: Generator, colour: Colour, low: float, high: float) -> Colour:
    """The same colour with another lightness."""
    factor = rng.uniform(low, high)
    return min(colour[0] * factor, 1.0), min(colour[1] * factor, 1.0), min(colour[2] * factor, 1.0)


def _material(rng: Generator, texture: str, base: Colour, accent: Colour, period_m: float = 1.0) -> Material:
    return Material(texture, base, accent, period_m, int(rng.integers(1 << 16)))


def plain(rng: Generator) -> Material:
    """Paint or plastic of any colour."""
    base = _colour(rng, 0.9, 0.08, 0.9)
    return _material(rng, "plaster", base, base)


def metal(rng: Generator) -> Material:
    """A grey of any lightness."""
    base = _colour(rng, 0.1, 0.05, 0.7)
    return _material(rng, "plaster", base, base)


def wood(rng: Generator) -> Material:
    """Veneer with a grain, or painted wood."""
    if rng.random() < 0.3:
        return plain(rng)
    base = _brown(rng)
    return _material(rng, "wood", base, _near(rng, base, 0.5, 0.8), rng.uniform(0.15, 0.5))


def fabric(rng: Generator) -> Material:
    """Upholstery and bedding: woven, striped, checked or dotted."""
    base = _colour(rng, 0.8, 0.06, 0.9)
    texture = rng.choice(["weave", "weave", "stripes", "checks", "dots"])
    period_m = rng.uniform(0.05, 0.25)
    accent = _near(rng, base, 0.5, 1.5) if rng.random() < 0.6 else _colour(rng, 0.8, 0.06, 0.9)
    return _material(rng, str(texture), base, accent, period_m)


def wall(rng: Generator) -> Material:
    """Plaster, or wallpaper with stripes or dots."""
    base = _colour(rng, 0.5, 0.25, 0.95)
    texture = rng.choice(["plaster", "plaster", "plaster", "stripes", "dots"])
    accent = _near(rng, base, 0.75, 1.2)
    return _material(rng, str(texture), base, accent, rng.uniform(0.08, 0.35))


def ceiling(rng: Generator) -> Material:
    """Light plaster, or panels."""
    base = _colour(rng, 0.15, 0.45, 0.95)
    texture = "tiles" if rng.random() < 0.2 else "plaster"
    return _material(rng, texture, base, _near(rng, base, 0.5, 0.8), 0.6)


def floor(rng: Generator) -> Material:
    """Planks, tiles or carpet."""
    kind = rng.choice(["planks", "tiles", "carpet"])
    if kind == "planks":
        base = _brown(rng)
        return _material(rng, "planks", base, _near(rng, base, 0.25, 0.5), rng.uniform(0.08, 0.2))
    if kind == "tiles":
        base = _colour(rng, 0.4, 0.12, 0.9)
        return _material(rng, "tiles", base, _near(rng, base, 0.4, 1.4), rng.uniform(0.2, 0.6))
    base = _colour(rng, 0.7, 0.08, 0.7)
    return _material(rng, "carpet", base, _near(rng, base, 0.6, 0.9))


def books(rng: Generator) -> Material:
    """A row of spines."""
    return _material(rng, "books", _colour(rng, 0.5, 0.2, 0.8), _colour(rng, 0.5, 0.2, 0.8), rng.uniform(0.02, 0.045))


def painting(rng: Generator) -> Material:
    """A canvas of soft shapes."""
    return _material(rng, "painting", _colour(rng, 1.0, 0.1, 0.9), _colour(rng, 1.0, 0.1, 0.9), rng.uniform(0.3, 1.2))


def leaves(rng: Generator) -> Material:
    """Foliage."""
    base = colorsys.hsv_to_rgb(rng.uniform(0.2, 0.4), rng.uniform(0.4, 0.8), rng.uniform(0.15, 0.5))
    return _material(rng, "leaves", base, _near(rng, base, 0.2, 0.4), rng.uniform(0.15, 0.3))


def pane(rng: Generator) -> Material:
    """A window by day or night: bright or dark, and without an answer in the infrared."""
    top = colorsys.hsv_to_rgb(rng.uniform(0.5, 0.65), rng.uniform(0.0, 0.5), rng.uniform(0.5, 1.0))
    bottom = colorsys.hsv_to_rgb(rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.8))
    glow = rng.uniform(0.3, 1.5) if rng.random() < 0.75 else 0.03
    return Material("outdoors", bottom, top, 1.0, int(rng.integers(1 << 16)), glow=glow, returns_depth=False)


def screen(rng: Generator) -> Material:
    """A television or monitor, off or showing something."""
    if rng.random() < 0.6:
        black = _colour(rng, 0.2, 0.01, 0.05)
        return Material("plaster", black, black, returns_depth=False)
    key = int(rng.integers(1 << 16))
    picture = _colour(rng, 0.9, 0.2, 0.9), _colour(rng, 0.9, 0.2, 0.9)
    return Material("painting", *picture, 0.4, key, glow=0.5, returns_depth=False)


def lampshade(rng: Generator) -> Material:
    """A shade, lit from inside or not."""
    base = _colour(rng, 0.4, 0.6, 0.95)
    glow = rng.uniform(0.3, 1.0) if rng.random() < 0.6 else 0.0
    return Material("plaster", base, base, glow=glow, returns_depth=glow == 0.0)
