"""The formulas of SPD v13, §4 to §6.5, transcribed in reading order. Slow on purpose.

It shares no code with the components, only the parameters' names, so that it can load their weights and be
compared with them. Maps are channels first, every token gets its own key and value, every read is a `grid_sample`.

Letters: B images, K queries, T tokens, S sites of L4, R anchors, D core width, N heads, E width per head,
L levels, M samples, C channels, H W rows and columns.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel
from spd_bench.errors import ConfigError
from spd_bench.geometry import cell_centres, grid_sample, neighbourhood, unit_to_level

D, N, FFN = 192, 6, 768
E = D // N
FEATURES = 384
CHANNELS = (64, 128, 192, 384)
R_MAX = 6.0


def code(x: Tensor, num_freq: int) -> Tensor:
    """[sin(2πσ_l x); cos(2πσ_l x); sin(2πσ_l y); cos(2πσ_l y)], σ_l = 2^l (§6.1)."""
    sigma = 2.0 ** torch.arange(num_freq, dtype=x.dtype, device=x.device)
    at_x, at_y = 2 * math.pi * sigma * x[..., :1], 2 * math.pi * sigma * x[..., 1:]
    return torch.cat([at_x.sin(), at_x.cos(), at_y.sin(), at_y.cos()], dim=-1)


class Map(NamedTuple):
    """A level of the pyramid."""

    values_BCHW: Tensor
    """Channels first."""
    extent: tuple[float, float]
    """Fraction (x, y) of the image that it covers."""

    def at(self, xy_BMN2: Tensor, offset_cells: Tensor | float = 0.0) -> Tensor:
        """Bilinear(L, q / s + δ): [B, M, N, C]."""
        height, width = self.values_BCHW.shape[-2:]
        xy_lvl = unit_to_level(xy_BMN2, width=width, height=height, extent=self.extent) + offset_cells
        return grid_sample(self.values_BCHW, xy_lvl).permute(0, 2, 3, 1)


class NeckLevel(nn.Module):
    """Resize, Conv 1×1, LN (§4)."""

    def __init__(self, channels_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(FEATURES, channels_out)
        self.norm = nn.LayerNorm(channels_out)

    def forward(self, resized_BCHW: Tensor) -> Tensor:
        projected = F.conv2d(resized_BCHW, self.proj.weight[:, :, None, None], self.proj.bias)
        return self.norm(projected.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class Neck(nn.Module):
    """§4."""

    def __init__(self) -> None:
        super().__init__()
        self.l1, self.l2, self.l3, self.l4 = (NeckLevel(c) for c in CHANNELS)

    def forward(self, features: Features) -> tuple[Map, Map, Map, Map]:
        x2, x5, x8, x11 = (m.permute(0, 3, 1, 2) for m in features.maps_BHWC)
        height, width = x11.shape[-2:]
        whole = (1.0, 1.0)
        up4 = F.interpolate(x2, size=(4 * height, 4 * width), mode="bilinear", align_corners=False)
        up2 = F.interpolate(x5, size=(2 * height, 2 * width), mode="bilinear", align_corners=False)
        down2 = F.avg_pool2d(x11, kernel_size=2, stride=2)
        covered = (2 * (width // 2) / width, 2 * (height // 2) / height)
        return (
            Map(self.l1(up4), whole),
            Map(self.l2(up2), whole),
            Map(self.l3(x8), whole),
            Map(self.l4(down2), covered),
        )


class CrossAttention(nn.Module):
    """A Pre-LN decoder layer (§6.2, §6.3): h + MHCrossAttn(LN_q(h), K, V), then h + FFN(LN_ff(h))."""

    def __init__(self, channels_kv: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.query_norm = nn.LayerNorm(D)
        self.query = nn.Linear(D, D)
        self.key = nn.Linear(channels_kv, D)
        self.value = nn.Linear(channels_kv, D)
        self.out = nn.Linear(D, D)
        self.ffn = FeedForward()

    def forward(self, h_BKD: Tensor, source_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        query_BKNE = self.query(self.query_norm(h_BKD)).unflatten(-1, (N, E))
        key_BKTNE = self.key(source_BKTC).unflatten(-1, (N, E))
        value_BKTNE = self.value(source_BKTC).unflatten(-1, (N, E))
        alpha_BKNT = torch.einsum("bkne,bktne->bknt", query_BKNE, key_BKTNE).div(math.sqrt(E)).softmax(-1)
        dropped_BKNT = F.dropout(alpha_BKNT, self.dropout, self.training)
        read_BKNE = torch.einsum("bknt,bktne->bkne", dropped_BKNT, value_BKTNE)
        h_BKD = h_BKD + self.out(read_BKNE.flatten(-2))
        return self.ffn(h_BKD), alpha_BKNT


class FeedForward(nn.Module):
    """192 → 768 → 192, GELU (§6.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.wide = nn.Linear(D, FFN)
        self.narrow = nn.Linear(FFN, D)

    def forward(self, h_BKD: Tensor) -> Tensor:
        return h_BKD + self.narrow(F.gelu(self.wide(self.norm(h_BKD))))  # type: ignore[no-any-return]


class B1(nn.Module):
    """§6.1."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Linear(64, 16)
        self.local = nn.Linear(64 + 16, D)
        self.value2 = nn.Linear(128, D, bias=False)
        self.value4 = nn.Linear(384, D, bias=False)
        self.seed = nn.Linear(64 + 32, D)
        self.level_embed = nn.Parameter(0.02 * torch.randn(4, D))
        self.rpe = nn.Parameter(0.02 * torch.randn(25, D))

    def forward(self, pyramid: tuple[Map, Map, Map, Map], xy_BK2: Tensor) -> tuple[Tensor, Tensor]:
        l1, l2, l3, l4 = pyramid
        q_BK12 = xy_BK2[:, :, None]
        f_q = l1.at(q_BK12)[:, :, 0]
        pe_q = code(xy_BK2, 8)

        grid25 = neighbourhood(5, like=xy_BK2)
        ring24 = torch.cat([grid25[:12], grid25[13:]])
        learned8 = R_MAX * torch.tanh(self.offset(f_q)).unflatten(-1, (8, 2))
        delta = torch.cat([ring24.expand(*xy_BK2.shape[:2], 24, 2), learned8], dim=2)
        f_delta = l1.at(q_BK12.expand(-1, -1, 32, -1), delta)
        t1 = F.gelu(self.local(torch.cat([f_delta, code(delta / (2 * R_MAX), 4)], dim=-1))) + self.level_embed[0]

        q_BKT2 = q_BK12.expand(-1, -1, 25, -1)
        t2 = self.value2(l2.at(q_BKT2, grid25)) + self.level_embed[1] + self.rpe
        t3 = l3.at(q_BKT2, grid25) + self.level_embed[2] + self.rpe
        inner = torch.tensor([6, 7, 8, 11, 12, 13, 16, 17, 18], device=xy_BK2.device)
        t4 = self.value4(l4.at(q_BK12.expand(-1, -1, 9, -1), neighbourhood(3, like=xy_BK2)))
        t4 = t4 + self.level_embed[3] + self.rpe[inner]

        h0 = self.seed(torch.cat([f_q, pe_q], dim=-1))
        return h0, torch.cat([t1, t2, t3, t4], dim=2)


class TokenDecoder(nn.Module):
    """§6.2 and §6.5: layers of cross-attention over LN_kv(T)."""

    def __init__(self, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(D)
        self.layers = nn.ModuleList(CrossAttention(D, dropout) for _ in range(num_layers))

    def forward(self, h_BKD: Tensor, tokens_BKTD: Tensor) -> Tensor:
        for layer in self.layers:
            h_BKD, _ = layer(h_BKD, self.token_norm(tokens_BKTD))
        return h_BKD


class B3(nn.Module):
    """§5.1 and §6.3: layers of cross-attention over L4, and ᾱ of the last."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossAttention(384, dropout) for _ in range(2))

    def forward(self, h_BKD: Tensor, l4: Map) -> tuple[Tensor, Tensor]:
        sites_B1SC = l4.values_BCHW.flatten(2).transpose(1, 2)[:, None]
        for layer in self.layers:
            h_BKD, alpha_BKNS = layer(h_BKD, sites_B1SC)  # keys and values once per image (§5.1)
        return h_BKD, alpha_BKNS.mean(2)


class B4(nn.Module):
    """§5.2, §5.3 and §6.4."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Linear(384, D)
        self.value2 = nn.Linear(128, D, bias=False)
        self.value3 = nn.Linear(192, D, bias=False)
        self.value4 = nn.Linear(384, D, bias=False)
        self.condition = nn.Linear(2 * D + 32, D)
        self.condition_norm = nn.LayerNorm(D)
        self.offset = nn.Linear(D, N * 3 * 4 * 2)
        self.weight = nn.Linear(D, N * 3 * 4)
        self.out = nn.Linear(D, D)
        self.evidence_embed = nn.Parameter(0.02 * torch.randn(D))

    def forward(self, h_BKD: Tensor, pyramid: tuple[Map, Map, Map, Map], xy_BK2: Tensor, site_BKR: Tensor) -> Tensor:
        _, l2, l3, l4 = pyramid
        batch, count, num_anchors = site_BKR.shape
        height, width = l4.values_BCHW.shape[-2:]
        p_BKR2 = cell_centres(width=width, height=height, extent=l4.extent, like=xy_BK2)[site_BKR]

        g_BSD = self.anchor(l4.values_BCHW.flatten(2).transpose(1, 2))
        g_BKRD = torch.gather(g_BSD[:, None].expand(-1, count, -1, -1), 2, site_BKR[..., None].expand(-1, -1, -1, D))
        phi = code(p_BKR2 - xy_BK2[:, :, None], 8)
        h_BKRD = h_BKD[:, :, None].expand(-1, -1, num_anchors, -1)
        u_BKRD = self.condition_norm(F.gelu(self.condition(torch.cat([h_BKRD, g_BKRD, phi], dim=-1))))

        offset = self.offset(u_BKRD).view(batch, count, num_anchors, N, 3, 4, 2)
        a = self.weight(u_BKRD).view(batch, count, num_anchors, N, 12).softmax(-1)
        a = a.view(batch, count, num_anchors, N, 3, 4)
        heads = []
        for n in range(N):
            evidence = torch.zeros(batch, count, num_anchors, E, dtype=h_BKD.dtype, device=h_BKD.device)
            for index, (level, projection) in enumerate(((l2, self.value2), (l3, self.value3), (l4, self.value4))):
                value_BDHW = F.conv2d(level.values_BCHW, projection.weight[:, :, None, None])
                own = Map(value_BDHW[:, n * E : (n + 1) * E], level.extent)
                for m in range(4):
                    sampled = own.at(p_BKR2, offset[:, :, :, n, index, m])
                    evidence = evidence + a[:, :, :, n, index, m, None] * sampled
            heads.append(evidence)
        return self.out(torch.cat(heads, dim=-1))  # type: ignore[no-any-return]


class DepthHead(nn.Module):
    """§5.4 and §6.5."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(D, 384)
        self.out = nn.Linear(384, 1)
        self.scale = nn.Linear(384, 1)
        self.shift = nn.Linear(384, 1)

    def forward(self, h_BKD: Tensor, l4: Map) -> Tensor:
        pooled = l4.values_BCHW.mean((2, 3))
        s = F.softplus(self.scale(pooled))
        b = self.shift(pooled)
        r_q = self.out(F.gelu(self.hidden(h_BKD)))[..., 0]
        return 1 / (F.softplus(s * r_q + b) + 1e-6)


class SPDv13Literal(PointDepthModel):
    """SPD v13 as the paper plan writes it (§4 to §6.5 under docs/readings.md).

    The same function as the composition of the default components, with the same parameter names: the reference
    of the parity tests and of every statement about speed. Not meant for training at scale.
    """

    class Config(ComponentConfig):
        """Options of the transcription."""

        r: int = Field(default=32, ge=1)
        """Number of anchors R (§6.3)."""
        dropout: float = Field(default=0.1, ge=0, lt=1)
        """Dropout on attention weights in B2, B3 and B5, in training only (R-10)."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        if encoder.maps != (FEATURES,) * 4:
            raise ConfigError(
                f"spd_v13_literal has the paper's sizes: four maps of {FEATURES} channels, found {encoder.maps}",
                hint="use an encoder of ViT-S width, such as dav2_small, or leave this baseline out",
            )
        self.config = config
        self.encoder = encoder
        self.neck = Neck()
        self.b1 = B1()
        self.b2 = TokenDecoder(2, config.dropout)
        self.b3 = B3(config.dropout)
        self.b4 = B4()
        self.b5 = TokenDecoder(3, config.dropout)
        self.depth_head = DepthHead()

    def prepare(self, features: Features) -> tuple[Map, Map, Map, Map]:
        """The pyramid; `decode` computes the rest, in the order of the paper."""
        return self.neck(features)  # type: ignore[no-any-return]

    def decode(self, scene: Any, xy_BK2: Tensor) -> Tensor:
        """d̂_q of every query in metres."""
        pyramid: tuple[Map, Map, Map, Map] = scene
        h, t_unified = self.b1(pyramid, xy_BK2)
        h = self.b2(h, t_unified)
        h, alpha_bar = self.b3(h, pyramid[3])
        weight, site = torch.sort(alpha_bar, dim=-1, descending=True, stable=True)
        weight, site = weight[..., : self.config.r], site[..., : self.config.r]
        h_r = self.b4(h, pyramid, xy_BK2, site)
        h_r = h_r * (1 + weight - weight.detach())[..., None]
        t_fused = torch.cat([t_unified, h_r + self.b4.evidence_embed], dim=2)
        h_fuse = self.b5(h, t_fused)
        return self.depth_head(h_fuse, pyramid[3])  # type: ignore[no-any-return]
