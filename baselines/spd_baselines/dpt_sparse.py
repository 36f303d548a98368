"""Baseline `dpt_sparse`: the function of `dpt_trained` (R-27a), evaluated exactly only where queries need it (R-29).

The same parameters, training and value at every point, without the dense map: the fair rival of a sparse decoder in
time. For Hp×Wp cells of features and fusion width C the head is

    T = the fusion stages' output                                     [4Hp, 4Wp, C]    once per image, in `prepare`
    G = conv1(up(T))          3×3, C → C/2, zero padding              [8Hp, 8Wp, C/2]  around queries alone
    ρ = output(conv3(relu(conv2(up(G)))))   3×3 and 1×1, to 1         [14Hp, 14Wp]     around queries alone

with up = bilinear, align_corners=True, and 14 the encoder's patch (a larger one needs no more cells, a smaller one is
refused). Two exact rewritings:

**Projections before upsamplings.** Each fusion stage ends in a 1×1 convolution W of its upsampled map. The bilinear
weights w_j of every output cell sum to one, so W·Σ w_j x_j + b = Σ w_j (W·x_j + b): it runs on a quarter of the
cells. That holds for 1×1 alone; a 3×3 convolution between two upsamplings sees neighbours of another distance.

**The tail backwards from one query.** Along either axis, a bilinear read of ρ touches 2 pixels; conv2 needs 4
positions of up(G); these lie (8Hp−1)/(14Hp−1) < 4/7 cells apart, so between 4 consecutive cells of G; conv1 needs 6
positions of up(T), less than ½ cell apart: between 5 consecutive cells of T. A query therefore reads 5×5 cells, and
costs about 0.4 M multiply-adds on ViT-S features. A position outside its map is a convolution's zero padding: weight
zero. Positions are ratios of integers, so which cells they lie between is exact in every precision.

Overlapping neighbourhoods are computed once per query: 1024 queries share a tenth of their cells of G, too few to gain
by sharing them. The dense map is cheaper only from 6,000 to 12,000 queries; `dpt_trained` with the same weights
computes it.

Letters: B images, K points, N = B·K points of a batch, P positions, S cells along one axis, C channels, H W rows and
columns of T, 2 an (x, y) pair.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_baselines.dpt_head import dense_xy
from spd_baselines.dpt_training import TrainedDPT
from spd_baselines.output import depth_of
from spd_bench.api import Encoder, Features
from spd_bench.errors import ConfigError
from spd_bench.geometry import bilinear_weights, constant

QUERY_CHUNK = 512
"""Points of a batch that are decoded together outside training, at about 28 kB each: keeps memory flat in K."""
T_CELLS, G_CELLS = 4, 8
"""Cells of T and of G along one side of a patch."""
LEAST_PATCH = 14
"""Smallest patch for which the numbers of cells below suffice: (8Hp−1)/(P·Hp−1) < 4/7."""


class DPTSparse(TrainedDPT):
    """The DPT head of `dpt_trained`, evaluated exactly and only where the queries need it (R-27a, R-29).

    Checkpoints of the two are interchangeable, and both start from the same weights.
    Raises ConfigError as `dpt_trained` does.
    """

    registered = "dpt_sparse"
    trained_as = "dpt_trained"

    def __init__(self, config: TrainedDPT.Config, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        if encoder.patch < LEAST_PATCH:
            raise ConfigError(
                f"dpt_sparse computes patches of {LEAST_PATCH} pixels or more, this encoder's have {encoder.patch}",
                hint="use dpt_trained, the same head computed for every pixel",
            )

    def prepare(self, features: Features) -> Tensor:
        """T, which all queries share: [B, 4·Hp, 4·Wp, C], channels last."""
        return trunk(self.dpt.neck, features).permute(0, 2, 3, 1)

    def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square, unclamped: 1/ρ with ρ read bilinearly, [B, K]."""
        batch, count = xy_BK2.shape[:2]
        image_N = torch.arange(batch, device=xy_BK2.device).repeat_interleave(count)
        size = batch * count if self.training else QUERY_CHUNK
        chunks = zip(image_N.split(size), xy_BK2.flatten(0, 1).split(size), strict=True)
        rho_N = torch.cat([self._rho(scene, *chunk) for chunk in chunks])
        return depth_of(rho_N.view(batch, count))

    def _rho(self, map_BHWC: Tensor, image_N: Tensor, xy_N2: Tensor) -> Tensor:
        """ρ in 1/m, read bilinearly between the 2×2 pixels around each point of an image's unit square."""
        rows, columns = (side // T_CELLS for side in map_BHWC.shape[1:3])
        patch = self.encoder.patch
        size_2 = constant([columns, rows], like=xy_N2, dtype=torch.int64)
        xy_N2 = dense_xy(xy_N2, width=patch * columns, height=patch * rows) - 0.5
        pixel_N2 = torch.minimum(xy_N2.detach().floor().long().clamp_min(0), patch * size_2 - 2)
        rho_N4 = self._pixels(map_BHWC, image_N, pixel_N2, size_2).flatten(1)
        return (rho_N4 * bilinear_weights(xy_N2 - pixel_N2)).sum(-1)

    def _pixels(self, map_BHWC: Tensor, image_N: Tensor, pixel_N2: Tensor, size_2: Tensor) -> Tensor:
        """ρ of the dense map at 2×2 pixels, of which `pixel_N2` (x, y) is the upper left: [N, 2, 2] (row, column)."""
        head, dtype = self.dpt.head, torch.promote_types(map_BHWC.dtype, torch.float32)
        g_N2, to_pixels_N2PS = between(window(pixel_N2, 4), 4, G_CELLS * size_2, self.encoder.patch * size_2, dtype)
        t_N2, to_g_N2PS = between(window(g_N2, 6), 5, T_CELLS * size_2, G_CELLS * size_2, dtype)
        g_NCSS = unpadded(head.conv1, upsampled(patches(map_BHWC, image_N, t_N2, 5), to_g_N2PS))
        hidden_NCPP = F.relu(unpadded(head.conv2, upsampled(g_NCSS, to_pixels_N2PS)))
        rho_NPP: Tensor = head.activation2(head.conv3(hidden_NCPP))[:, 0]
        return rho_NPP


def trunk(neck: Any, features: Features) -> Tensor:
    """The neck of transformers without its last upsampling, with every 1×1 projection moved before its upsampling.

    [B, C, 4·Hp, 4·Wp]; upsampled by two, align_corners=True, it is the neck's own last output.
    """
    maps_BCHW = [map_BHWC.permute(0, 3, 1, 2) for map_BHWC in features.maps_BHWC]
    stages = zip(maps_BCHW, neck.reassemble_stage.layers, neck.convs, strict=True)
    reassembled_BCHW = [conv(layer(map_BCHW)) for map_BCHW, layer, conv in stages]
    coarsest, *finer = neck.fusion_stage.layers
    fused_BCHW: Tensor = coarsest.projection(coarsest.residual_layer2(reassembled_BCHW.pop()))
    for stage, map_BCHW in zip(finer, reversed(reassembled_BCHW), strict=True):
        up_BCHW = F.interpolate(fused_BCHW, size=map_BCHW.shape[2:], mode="bilinear", align_corners=True)
        fused_BCHW = stage.projection(stage.residual_layer2(up_BCHW + stage.residual_layer1(map_BCHW)))
    return fused_BCHW


def window(first_N2: Tensor, size: int) -> Tensor:
    """The `size` consecutive positions that a 3×3 convolution needs for its outputs from `first` on: [N, 2, P]."""
    return first_N2[..., None] + torch.arange(-1, size - 1, device=first_N2.device)


def between(
    wanted_N2P: Tensor, cells: int, source_2: Tensor, target_2: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The cells of a map that an upsampling reads for consecutive positions, and their weights.

    With align_corners=True, cell i of `target` cells lies at i·(source−1)/(target−1), in cells of the source; a cell j
    there weighs max(0, 1 − |that − j|). Positions outside the target are zero padding and weigh nothing.
    Returns the first of `cells` consecutive cells [N, 2] and the weights [N, 2, P, S].
    """
    source_21, target_21 = source_2[:, None], target_2[:, None]
    at_N2P = wanted_N2P * (source_21 - 1)  # times target − 1
    first_N21 = (at_N2P[..., :1] // (target_21 - 1)).clamp_min(0)
    steps_N2P = (at_N2P - first_N21 * (target_21 - 1)).to(dtype) / (target_21 - 1)
    distance_N2PS = (steps_N2P[..., None] - torch.arange(cells, device=wanted_N2P.device)).abs()
    inside_N2P = (wanted_N2P >= 0) & (wanted_N2P < target_21)
    return first_N21[..., 0], (1 - distance_N2PS).clamp_min(0) * inside_N2P[..., None]


def patches(map_BHWC: Tensor, image_N: Tensor, first_N2: Tensor, size: int) -> Tensor:
    """size×size cells of each point's image from `first` (x, y) on: [N, C, S, S], channels last.

    Cells beyond the far border repeat the last one; their weight is zero.
    """
    _, height, width, channels = map_BHWC.shape
    x_NS, y_NS = (first_N2[..., None] + torch.arange(size, device=first_N2.device)).unbind(1)
    line_NS = image_N[:, None] * height + y_NS.clamp_max(height - 1)
    row_NSS = line_NS[:, :, None] * width + x_NS.clamp_max(width - 1)[:, None]
    cells_QC = map_BHWC.reshape(-1, channels).index_select(0, row_NSS.flatten())
    return cells_QC.view(-1, size, size, channels).permute(0, 3, 1, 2)


def upsampled(cells_NCSS: Tensor, weight_N2PS: Tensor) -> Tensor:
    """The P×P positions between S×S cells, from the weights along x and y: [N, C, P, P], channels last."""
    count, channels = cells_NCSS.shape[:2]
    x_NPS, y_NPS = weight_N2PS.to(cells_NCSS.dtype).unbind(1)
    weight_NPPSS = y_NPS[:, :, None, :, None] * x_NPS[:, None, :, None, :]
    cells_NSC = cells_NCSS.permute(0, 2, 3, 1).flatten(1, 2)
    positions_NPC = torch.bmm(weight_NPPSS.flatten(3).flatten(1, 2), cells_NSC)
    side = weight_N2PS.shape[2]
    return positions_NPC.view(count, side, side, channels).permute(0, 3, 1, 2)


def unpadded(conv: nn.Conv2d, map_NCPP: Tensor) -> Tensor:
    """A 3×3 convolution of the head without padding: [N, C, P−2, P−2]."""
    return F.conv2d(map_NCPP, conv.weight, conv.bias)
