"""The frozen encoders DINOv2 and DINOv3 at their small sizes, through transformers, with the published weights.

Four maps each, through the final LayerNorm where there is one, without CLS and register tokens. Nothing is trained.

    dinov2_small             ViT-S/14, layers 2, 5, 8, 11                   22,056,576 parameters   Apache-2.0
    dinov2_small_registers   the same with four registers                   22,058,112              Apache-2.0
    dinov3_small             ViT-S/16, rotary positions, four registers     21,596,544              DINOv3 License
    dinov3_convnext_tiny     four stages of 96, 192, 384 and 768 channels   27,818,592              DINOv3 License

Letters: B images, C channels, H W pixels or cells of the named map.
"""

from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.api import ComponentConfig, Encoder, Features
from spd_bench.errors import DataError
from spd_components.encoders.backends import Precision
from spd_components.encoders.dav2_weights import sha256_of_file
from spd_components.encoders.dino_weights import backbone_with, find_file
from spd_components.encoders.support import IMAGENET_MEAN, IMAGENET_STD, computing_in, digest_of_tensors, patch_grid

DINOV3_TERMS = (
    "DINOv3 License: accepted before the download; a copy of it goes along with the weights and what is built on them, "
    "publications acknowledge DINOv3, no military, weapons, nuclear or ITAR-controlled use"
)
TAPS = (2, 5, 8, 11)
"""Layers of a ViT whose output is returned, counted from 0, as for Depth Anything V2 (R-22)."""


class DinoEncoder(Encoder):
    """A frozen encoder of transformers with published weights.

    Raises DataError for weights that are missing, damaged or of another model, and ConfigError for an input whose sides
    are not multiples of the patch.
    """

    places = frozenset({"weights"})
    title: ClassVar[str]
    """Name of the model in messages."""
    release: ClassVar[str]
    """Name of the published repository, and of its folder below DINO_WEIGHTS."""

    class Config(ComponentConfig):
        """Where the weights are, and how the network is computed."""

        weights: str | None = None
        """File `model.safetensors` as published, or its folder; null: from DINO_WEIGHTS, a folder of such folders."""
        random_weights: bool = False
        """Whether to use random weights: for trying the harness, never for results."""
        precision: Precision = "fp32"
        """Precision of matrix products; the four maps are float32 in both."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone: nn.Module
        if config.random_weights:
            self.stand_in = f"random weights instead of {self.title}"
            with torch.device("cpu"), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.backbone = self.network()(self.network_config())
            self._digest = digest_of_tensors(self.backbone.state_dict())
        else:
            path = find_file(config.weights, self.release)
            self.backbone = backbone_with(path, self.network(), self.network_config(), self.title)
            self._digest = sha256_of_file(path)
        mean_3, std_3 = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("mean_311", mean_3.view(3, 1, 1), persistent=False)
        self.register_buffer("std_311", std_3.view(3, 1, 1), persistent=False)
        self.to(torch.get_default_device())  # weights are read on the CPU, also under the meta device
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def network(cls) -> Any:
        """The backbone's class in transformers."""
        raise NotImplementedError

    @classmethod
    def network_config(cls) -> Any:
        """Its configuration, that of the published model."""
        raise NotImplementedError

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """What this machine lacks to build it with this config, and how to get it; None if nothing."""
        try:
            if not config.random_weights:
                find_file(config.weights, cls.release)
        except DataError as error:
            return str(error).replace("\n  hint: ", "; ")
        return None

    def digest(self) -> str:
        """SHA-256 of the file of weights; of the tensors if they are random."""
        return self._digest

    def train(self, mode: bool = True) -> Self:
        """Keeps evaluation mode, since the encoder is frozen (§3)."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor) -> Features:
        """RGB in [0, 1] with sides that are multiples of the patch → four maps, channels last."""
        grid = patch_grid(image_B3HW, encoder=self.title, patch=self.patch)
        mean, std = self.get_buffer("mean_311"), self.get_buffer("std_311")
        with computing_in(self.config.precision, image_B3HW.device):
            maps = self.maps_of((image_B3HW.to(mean.dtype) - mean) / std, grid)
        first, second, third, fourth = (map_BCHW.permute(0, 2, 3, 1).to(mean.dtype) for map_BCHW in maps)
        return Features((first, second, third, fourth))

    def maps_of(self, normal_B3HW: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """The four maps [B, C, rows, columns] on this grid, from a normalised image."""
        return list(self.backbone(normal_B3HW).feature_maps)


def vit_options(patch: int, image_size: int) -> dict[str, Any]:
    """Options of a ViT-S that DINOv2 and DINOv3 share in transformers."""
    return {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "patch_size": patch,
        "image_size": image_size,
        "out_indices": [tap + 1 for tap in TAPS],  # 0 is the embedding
        "apply_layernorm": True,
        "reshape_hidden_states": True,
        "attn_implementation": "sdpa",
    }


class DINOv2Small(DinoEncoder):
    """DINOv2 ViT-S/14 as published, without a depth head; position embeddings are resized as transformers does."""

    channels = 384
    prefix_tokens = 1  # CLS
    licence = "Apache-2.0: keep the licence and its notices with copies"
    title = "DINOv2 ViT-S/14"
    release = "dinov2-small"

    @classmethod
    def network(cls) -> Any:
        """The backbone's class in transformers."""
        from transformers import Dinov2Backbone

        return Dinov2Backbone

    @classmethod
    def network_config(cls) -> Any:
        """Its configuration, that of the published model."""
        from transformers import Dinov2Config

        return Dinov2Config(**vit_options(14, 518), mlp_ratio=4)


class DINOv2SmallRegisters(DinoEncoder):
    """DINOv2 ViT-S/14 with four register tokens, whose maps have no outlier cells (Darcet et al. 2024)."""

    channels = 384
    prefix_tokens = 5  # CLS, four registers
    licence = DINOv2Small.licence
    title = "DINOv2 ViT-S/14 with registers"
    release = "dinov2-with-registers-small"

    @classmethod
    def network(cls) -> Any:
        """The backbone's class in transformers."""
        from transformers import Dinov2WithRegistersBackbone

        return Dinov2WithRegistersBackbone

    @classmethod
    def network_config(cls) -> Any:
        """Its configuration, that of the published model."""
        from transformers import Dinov2WithRegistersConfig

        return Dinov2WithRegistersConfig(**vit_options(14, 518), mlp_ratio=4, num_register_tokens=4)


class DINOv3Small(DinoEncoder):
    """DINOv3 ViT-S/16: rotary positions, so that no embedding is resized, and four register tokens."""

    patch = 16
    channels = 384
    prefix_tokens = 5  # CLS, four registers
    licence = DINOV3_TERMS
    title = "DINOv3 ViT-S/16"
    release = "dinov3-vits16-pretrain-lvd1689m"

    @classmethod
    def network(cls) -> Any:
        """The backbone's class in transformers."""
        from transformers import DINOv3ViTBackbone

        return DINOv3ViTBackbone

    @classmethod
    def network_config(cls) -> Any:
        """Its configuration, that of the published model."""
        from transformers import DINOv3ViTConfig

        return DINOv3ViTConfig(**vit_options(16, 224), intermediate_size=1536, num_register_tokens=4)


class DINOv3ConvNextTiny(DinoEncoder):
    """DINOv3 ConvNeXt-T: stages of stride 4, 8, 16 and 32, brought to one grid of stride 16 as its repository does.

    Finer stages are averaged with an antialiased bilinear filter, the coarsest is enlarged bilinearly. The image's
    lower and right border is repeated up to a multiple of 32, so that the stages of an odd grid keep their places.
    """

    patch = 16
    channels = 768
    widths = (96, 192, 384, 768)
    licence = DINOV3_TERMS
    title = "DINOv3 ConvNeXt-T"
    release = "dinov3-convnext-tiny-pretrain-lvd1689m"
    coarsest: ClassVar[int] = 32

    @classmethod
    def network(cls) -> Any:
        """The backbone's class in transformers."""
        from transformers import DINOv3ConvNextBackbone

        return DINOv3ConvNextBackbone

    @classmethod
    def network_config(cls) -> Any:
        """Its configuration, that of the published model."""
        from transformers import DINOv3ConvNextConfig

        return DINOv3ConvNextConfig(out_indices=[1, 2, 3, 4])

    def maps_of(self, normal_B3HW: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """The four stages on the grid of stride 16."""
        below, right = (-side % self.coarsest for side in normal_B3HW.shape[2:])
        padded_B3HW = F.pad(normal_B3HW, (0, right, 0, below), mode="replicate") if below or right else normal_B3HW
        size = (padded_B3HW.shape[2] // self.patch, padded_B3HW.shape[3] // self.patch)
        stages = self.backbone(padded_B3HW).feature_maps
        resized = [F.interpolate(stage, size, mode="bilinear", align_corners=False, antialias=True) for stage in stages]
        return [map_BCHW[:, :, : grid[0], : grid[1]] for map_BCHW in resized]
