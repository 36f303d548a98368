"""A weight-free stand-in for the frozen encoder of §3: patch descriptors computed with fixed formulas.

It fulfils the encoder's contract (four maps on the 14-pixel grid, 384 channels each, fine to coarse like shallow to
deep layers) and needs no download, so that a suite runs on any machine. It is not DAv2-S: numbers measured on it say
nothing about the paper's, and every table shows `stand_in`.

Each map sees the image at one `Scale` and lists, for every cell:

    54   spectrum    DCT of the patch around it: 36 of luma, 9 of each chroma
    32   edges       energy of 8 edge directions in the patch's four quadrants
    216  words       24 soft visual words of the 3×3 blocks around it (8 hues, 4 greys, 4 colour, 8 edges)
    24   image       the same words, mean over the image
    24   paths       how free of edges the line from each border of the image is: where a floor ends
    18   likeness    similarity in colour to the borders, such as floor and ceiling
    16   position    Fourier code of the cell's centre

Every value is compressed and scaled by a constant, so that channels are O(1) without any fitting.

Letters: B images, C channels, H W pixels or cells of the named map, K basis functions.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from spd_bench.api import ComponentConfig, Encoder, Features
from spd_components.encoders.support import PATCH, computing_in, patch_grid


@dataclass(frozen=True)
class Scale:
    """The scale at which one of the four maps describes the image."""

    pool: int
    """Pooling of the image before its spectrum."""
    window: int
    """Samples along a side of the spectrum's window."""
    stride: int
    """Samples from one cell's window to the next."""
    edge_pool: int
    """Pooling of the image before its edges."""
    quadrant: int
    """Half-cells along a side of a quadrant of edges."""
    block: int
    """Cells along a side of a block of words."""
    decay: float
    """A larger value ends a path at weaker edges."""
    softness: float
    """Width of the similarity of colours."""


SCALES = (
    Scale(pool=1, window=14, stride=14, edge_pool=1, quadrant=1, block=1, decay=6, softness=0.05),
    Scale(pool=2, window=15, stride=7, edge_pool=2, quadrant=2, block=3, decay=6, softness=0.1),
    Scale(pool=7, window=8, stride=2, edge_pool=7, quadrant=4, block=5, decay=6, softness=0.2),
    Scale(pool=14, window=9, stride=1, edge_pool=7, quadrant=9, block=9, decay=2, softness=0.5),
)
LUMA_ORDER, CHROMA_ORDER = 6, 3
"""Basis functions per side of the spectrum of luma and of each chroma."""
DIRECTIONS = 8
"""Directions of hues and of edges."""
GREYS = (0.1, 0.35, 0.6, 0.85)
"""Lightness of the grey words."""
OCTAVES = (0.5, 1.0, 2.0, 4.0)
"""Periods per image of the position code."""


class PatchDescriptors(Encoder):
    """Encoder `patch_descriptors`: the four maps of §3 from fixed filters.

    Raises ConfigError for an input whose sides are not multiples of 14. Deterministic; the features carry no
    gradient. A flipped image does not give flipped maps: directions, quadrants and blocks change as well.
    """

    version = 1
    patch = PATCH
    licence = "no weights: formulas, under the licence of this package"
    stand_in = "patch descriptors instead of DAv2-S"

    direction_K2: Tensor

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        angle_K = torch.arange(DIRECTIONS, dtype=torch.float64) * (2 * math.pi / DIRECTIONS)
        self._constant("direction_K2", torch.stack([angle_K.cos(), angle_K.sin()], dim=-1))
        for window in {scale.window for scale in SCALES}:
            self._constant(f"luma_{window}", dct_basis(window, LUMA_ORDER))
            self._constant(f"chroma_{window}", dct_basis(window, CHROMA_ORDER))

    def _constant(self, name: str, value: Tensor) -> None:
        """Registers a fixed filter, which `.to(...)` moves and checkpoints do not contain."""
        self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    def digest(self) -> str:
        """SHA-256 of the tables above and the version that defines what is computed with them."""
        definition = (self.version, PATCH, SCALES, LUMA_ORDER, CHROMA_ORDER, DIRECTIONS, GREYS, OCTAVES)
        return hashlib.sha256(repr(definition).encode()).hexdigest()

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor) -> Features:
        """RGB in [0, 1] with sides that are multiples of 14 → four maps [B, H/14, W/14, 384]."""
        patch_grid(image_B3HW, encoder="patch_descriptors")
        with computing_in("fp32", image_B3HW.device):
            first, second, third, fourth = self._maps(image_B3HW.to(self.direction_K2.dtype))
        return Features((first, second, third, fourth))

    def _maps(self, image_B3HW: Tensor) -> list[Tensor]:
        planes_B3HW = opponent(image_B3HW)
        colour_BCHW = colour_words(image_B3HW, self.direction_K2)
        where_BCHW = position_code(colour_BCHW)
        energy = {
            pool: edge_energy(planes_B3HW[:, :1], pool, self.direction_K2)
            for pool in sorted({scale.edge_pool for scale in SCALES})
        }
        maps = []
        for scale in SCALES:
            edges_BCHW = energy[scale.edge_pool]
            words_BCHW = torch.cat([colour_BCHW, compress_energy(F.avg_pool2d(edges_BCHW, 2))], dim=1)
            parts = [
                self._spectrum(planes_B3HW, scale),
                quadrants(edges_BCHW, scale.quadrant),
                blocks(words_BCHW, scale.block),
                words_BCHW.mean(dim=(2, 3), keepdim=True).expand_as(words_BCHW),
                paths(edges_BCHW, scale.decay),
                likeness(words_BCHW, scale.softness),
                where_BCHW,
            ]
            maps.append(torch.cat([part.permute(0, 2, 3, 1) for part in parts], dim=-1))
        return maps

    def _spectrum(self, planes_B3HW: Tensor, scale: Scale) -> Tensor:
        """DCT of the window around each cell: 36 coefficients of luma, 9 of each chroma, [B, 54, H, W]."""
        pad = (scale.window - scale.stride) // 2
        pooled_B3HW = replicate(pooled(planes_B3HW, scale.pool), pad)
        luma_BCHW = F.conv2d(pooled_B3HW[:, :1], self.get_buffer(f"luma_{scale.window}"), stride=scale.stride)
        chroma_basis = self.get_buffer(f"chroma_{scale.window}").repeat(2, 1, 1, 1)
        chroma_BCHW = F.conv2d(pooled_B3HW[:, 1:], chroma_basis, stride=scale.stride, groups=2)
        return torch.cat([signed_root(luma_BCHW, 0.01), signed_root(chroma_BCHW, 0.003)], dim=1)


def dct_basis(window: int, order: int) -> Tensor:
    """The lowest order² functions of the 2-D DCT-II on window² samples, as filters [order², 1, window, window].

    Divided by the window's side, so that a coefficient is in units of the image whatever the window, and
    multiplied by 1 + frequency, because the spectrum of natural images falls with it.
    """
    sample_W = (torch.arange(window, dtype=torch.float64) + 0.5) / window
    frequency_K = torch.arange(order, dtype=torch.float64)
    wave_KW = torch.cos(math.pi * frequency_K[:, None] * sample_W) / window
    wave_KW[1:] *= math.sqrt(2)
    gain_KK = 1 + torch.hypot(frequency_K[:, None], frequency_K)
    basis_KKWW = gain_KK[:, :, None, None] * wave_KW[:, None, :, None] * wave_KW[None, :, None, :]
    return basis_KKWW.reshape(order * order, 1, window, window)


def pooled(map_BCHW: Tensor, side: int) -> Tensor:
    """Means over side² cells; the map itself for side 1, which `avg_pool2d` would copy slowly."""
    return F.avg_pool2d(map_BCHW, side) if side > 1 else map_BCHW


def replicate(map_BCHW: Tensor, pad: int) -> Tensor:
    """The map with its border cells repeated `pad` times."""
    return F.pad(map_BCHW, (pad, pad, pad, pad), mode="replicate")


def signed_root(value: Tensor, knee: float) -> Tensor:
    """sign(v)·√|v| for |v| well above `knee`, linear below, times 3."""
    return 3 * value / (value.abs() + knee).sqrt()


def compress_energy(energy: Tensor) -> Tensor:
    """Square root of an edge energy, scaled."""
    return 4 * (energy + 1e-4).sqrt() - 0.5


def opponent(image_B3HW: Tensor) -> Tensor:
    """RGB → luma around 0, red−green, yellow−blue: [B, 3, H, W]."""
    red, green, blue = image_B3HW.unbind(dim=1)
    return torch.stack([(red + green + blue) / 3 - 0.5, red - green, (red + green) / 2 - blue], dim=1)


def colour_words(image_B3HW: Tensor, direction_K2: Tensor) -> Tensor:
    """The colours of a cell: 8 hues, 4 greys, lightness, two chromaticities, contrast: [B, 16, H/14, W/14].

    Hues and greys are soft memberships of pixels, averaged over the cell: a linear layer can separate a red cupboard
    from a brown table, which from mean colours alone needs a product.
    """
    red, green, blue = F.avg_pool2d(image_B3HW, 2).unbind(dim=1)
    total = red + green + blue
    x, y = (red - green) / (total + 0.15), ((red + green) / 2 - blue) / (total + 0.15)
    saturation = (x * x + y * y + 1e-8).sqrt()
    along_BKHW = torch.einsum("kc,bchw->bkhw", direction_K2, torch.stack([x, y], dim=1))
    hue_BKHW = F.relu(along_BKHW - math.cos(math.pi / 4) * saturation[:, None])
    grey = torch.exp(-((saturation / 0.08) ** 2))
    level = torch.tensor(GREYS, dtype=total.dtype, device=total.device).view(1, -1, 1, 1)
    grey_BKHW = grey[:, None] * torch.exp(-(((total[:, None] / 3 - level) / 0.15) ** 2))
    member_BKHW = F.avg_pool2d(torch.cat([3.4 * hue_BKHW, grey_BKHW], dim=1), PATCH // 2)
    mean_B4HW = F.avg_pool2d(torch.stack([total / 3, x, y, (total / 3) ** 2], dim=1), PATCH // 2)
    light, x, y, square = mean_B4HW.unbind(dim=1)
    contrast = (square - light * light).clamp_min(0)
    colour_B4HW = torch.stack([(light + 0.05).log() / 2 + 0.5, 6 * x, 6 * y, (contrast + 1e-5).log() / 3 + 2.5], dim=1)
    return torch.cat([2 * (member_BKHW + 1e-3).sqrt() - 0.3, colour_B4HW], dim=1)


def edge_energy(luma_B1HW: Tensor, pool: int, direction_K2: Tensor) -> Tensor:
    """Mean strength of edges by direction in each half-cell (7 px): [B, 8, 2H/14, 2W/14], directions signed."""
    padded = replicate(pooled(luma_B1HW, pool), 1)
    right = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    slope_BKHW = torch.einsum("kc,bchw->bkhw", direction_K2, torch.cat([right, down], dim=1))
    height, width = luma_B1HW.shape[-2:]
    return F.adaptive_avg_pool2d(F.relu(slope_BKHW), (2 * height // PATCH, 2 * width // PATCH))


def quadrants(energy_BCHW: Tensor, side: int) -> Tensor:
    """Edge energy in the four quadrants, of side² half-cells each, around every cell: [B, 4·8, H/2, W/2]."""
    mean_BCHW = F.avg_pool2d(replicate(energy_BCHW, side - 1), side, stride=1)
    low, high = slice(0, -side, 2), slice(side, None, 2)
    four = [mean_BCHW[..., row, column] for row in (low, high) for column in (low, high)]
    return compress_energy(torch.cat(four, dim=1))


def blocks(words_BCHW: Tensor, side: int) -> Tensor:
    """Words averaged over the 3×3 blocks of side² cells around every cell, row-major: [B, 9·C, H, W]."""
    height, width = words_BCHW.shape[-2:]
    mean_BCHW = replicate(F.avg_pool2d(replicate(words_BCHW, side // 2), side, stride=1), side)
    steps = (0, side, 2 * side)
    nine = [mean_BCHW[..., dy : dy + height, dx : dx + width] for dy in steps for dx in steps]
    return torch.cat(nine, dim=1)


def paths(energy_BCHW: Tensor, decay: float) -> Tensor:
    """Distance from each border of the image to the first strong edge: [B, 4·6, H/2, W/2].

    Along every line of half-cells, clear = exp(−decay · Σ energy so far), for vertical and for horizontal edges. Each
    cell gets `clear` at its position, its line's `reach` (the mean of clear: the fraction of the line before the edge)
    and the side of that edge on which it lies.
    """
    right, down, left, up = energy_BCHW[:, 0::2].unbind(dim=1)
    strength_B2HW = torch.stack([right + left, down + up], dim=1)
    found = []
    for turn in range(4):
        facing_B2HW = torch.rot90(strength_B2HW, turn, (2, 3))  # this border is now the first row
        clear_B2HW = torch.exp(-decay * facing_B2HW.cumsum(dim=2))
        cells_B2HW = F.avg_pool2d(clear_B2HW, 2)
        reach_B2HW = cells_B2HW.mean(dim=2, keepdim=True).expand_as(cells_B2HW)
        beyond_B2HW = torch.tanh(4 * (reach_B2HW - fractions(cells_B2HW)))
        found.append(torch.rot90(torch.cat([cells_B2HW, reach_B2HW, beyond_B2HW], dim=1), -turn, (2, 3)))
    return torch.cat(found, dim=1)


def likeness(words_BCHW: Tensor, softness: float) -> Tensor:
    """Similarity of each cell to the borders of the image: [B, 6·3, H, W].

    Compared with the cell at either end of its row and column, and with the mean of the two lowest and of the two
    highest rows: the similarity, its mean from that border to the cell, and its mean over the line.
    """
    found = []
    for turn in range(4):
        facing_BCHW = torch.rot90(words_BCHW, turn, (2, 3))
        references = [facing_BCHW[:, :, :1]]
        if turn in (0, 2):
            references.append(facing_BCHW[:, :, :2].mean(dim=(2, 3), keepdim=True))
        count_H1 = torch.arange(1, facing_BCHW.shape[2] + 1, dtype=words_BCHW.dtype, device=words_BCHW.device)[:, None]
        for reference in references:
            alike_B1HW = torch.exp(-(facing_BCHW - reference).square().mean(dim=1, keepdim=True) / softness)
            so_far_B1HW = alike_B1HW.cumsum(dim=2) / count_H1
            line_B1HW = so_far_B1HW[:, :, -1:].expand_as(alike_B1HW)
            found.append(torch.rot90(torch.cat([alike_B1HW, so_far_B1HW, line_B1HW], dim=1), -turn, (2, 3)))
    return torch.cat(found, dim=1)


def fractions(like_BCHW: Tensor) -> Tensor:
    """Centres of the rows as fractions of the height: [H, 1]."""
    height = like_BCHW.shape[2]
    return (torch.arange(height, dtype=like_BCHW.dtype, device=like_BCHW.device)[:, None] + 0.5) / height


def position_code(like_BCHW: Tensor) -> Tensor:
    """sin and cos of the cell centre's x and y in the unit square, four octaves: [B, 16, H, W]."""
    batch, _, height, width = like_BCHW.shape
    x_W = (torch.arange(width, dtype=like_BCHW.dtype, device=like_BCHW.device) + 0.5) / width
    y_H = (torch.arange(height, dtype=like_BCHW.dtype, device=like_BCHW.device) + 0.5) / height
    xy_2HW = torch.stack([x_W.expand(height, width), y_H[:, None].expand(height, width)])
    phase_CHW = torch.cat([2 * math.pi * octave * xy_2HW for octave in OCTAVES])
    return torch.cat([phase_CHW.sin(), phase_CHW.cos()]).expand(batch, -1, -1, -1)
