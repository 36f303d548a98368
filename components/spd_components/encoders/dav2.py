"""The frozen encoder of §3: Depth Anything V2's ViT, through transformers' DINOv2.

Four maps, each through the final LayerNorm, without the CLS token (R-22). No parameter is trained.

    dav2_small   ViT-S/14    22,056,576 parameters (R-21)   layers 2, 5, 8, 11     Apache-2.0
    dav2_base    ViT-B/14    86,580,480                     layers 2, 5, 8, 11     CC-BY-NC-4.0
    dav2_large   ViT-L/14   304,368,640                     layers 4, 11, 17, 23   CC-BY-NC-4.0

Letters: B images, C channels, H W pixels or cells of the named map, T tokens.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from spd_bench.api import ComponentConfig, Encoder, Features
from spd_bench.errors import DataError
from spd_components.encoders import dav2_weights
from spd_components.encoders.backends import Backend, Precision, TorchBackend
from spd_components.encoders.dav2_release import SHA256, Release, ReleasedFile, find_weights
from spd_components.encoders.dav2_sizes import BASE, LARGE, SMALL, DAv2Size
from spd_components.encoders.dav2_weights import read_weights
from spd_components.encoders.openvino import OpenVINOBackend
from spd_components.encoders.support import IMAGENET_MEAN, IMAGENET_STD, PATCH, digest_of_tensors, patch_grid

NON_COMMERCIAL = "CC-BY-NC-4.0: no commercial use, name the authors"
BACKENDS: Mapping[str, type[Backend]] = {"torch": TorchBackend, "openvino": OpenVINOBackend}
"""Option `backend` → backend."""


class DAv2Encoder(Encoder):
    """A frozen ViT of Depth Anything V2 (§3); a subclass sets its `size`.

    Raises DataError for weights that are missing, damaged or of another model, and ConfigError for a backend that
    this machine cannot run and for an input whose sides are not multiples of 14.
    """

    version = 3
    patch = PATCH
    prefix_tokens = 1  # CLS
    resampling = "opencv"
    places = frozenset({"weights", "repo", "revision", "hub"})
    size: ClassVar[DAv2Size]

    class Config(ComponentConfig):
        """Where the weights are, and how the ViT is computed."""

        weights: str | None = None
        """File or folder with the weights; null: from DAV2_WEIGHTS or DAV2_METRIC_WEIGHTS (see release)."""
        release: Release = "relative"
        """relative: inverse depth (DAV2_WEIGHTS). metric_indoor: metres (DAV2_METRIC_WEIGHTS, then DAV2_WEIGHTS)."""
        repo: str | None = None
        """Hugging Face repository with model.safetensors, instead of `weights`."""
        revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
        """Commit of `repo`, 40 hexadecimal digits."""
        hub: bool = False
        """Whether `repo` may be downloaded; false: only from the local cache."""
        random_weights: bool = False
        """Whether to use random weights: for trying the harness, never for results."""
        precision: Precision = "fp32"
        """Precision of matrix products; the four maps are float32 in both."""
        backend: Literal["torch", "openvino"] = "torch"
        """Library that computes the ViT: PyTorch, or OpenVINO, faster on CPUs (pip install 'spd-bench[openvino]')."""
        position_embeddings: Literal["authors", "transformers"] = "authors"
        """How position embeddings are resized for inputs other than 518×518 (R-23)."""

        @model_validator(mode="after")
        def _one_source(self) -> Self:
            if sum([self.weights is not None, self.repo is not None, self.random_weights]) > 1:
                raise ValueError("give only one of weights, repo and random_weights")
            if (self.repo is None) != (self.revision is None):
                raise ValueError("repo and revision (40 hexadecimal digits) go together")
            if self.hub and self.repo is None:
                raise ValueError("hub allows the download of a repo; give repo and revision")
            return self

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.channels = self.size.dim
        self.config = config
        self._backend = BACKENDS[config.backend](config.precision)
        self.backbone: nn.Module
        if config.random_weights:
            self.stand_in = f"random weights instead of DAv2-{self.size.name[0]}"
            self.backbone = random_backbone(self.size)
            self._digest = digest_of_tensors(self.backbone.state_dict())
        else:
            self._path = find_weights(config, self.size)
            released = read_weights(self._path, self.size)
            self._digest = released.sha256
            _refuse_other_release(self._path, self._digest, ReleasedFile(self.size, config.release))
            self.backbone = pretrained_backbone(released.backbone, self.size)
        if config.position_embeddings == "authors":
            from spd_components.encoders.dav2_positions import use_authors_positions

            use_authors_positions(self.backbone)
        mean_3, std_3 = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("mean_311", mean_3.view(3, 1, 1), persistent=False)
        self.register_buffer("std_311", std_3.view(3, 1, 1), persistent=False)
        self.to(torch.get_default_device())  # weights are read on the CPU, also under the meta device
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """What this machine lacks to build it with this config, and how to get it; None if nothing."""
        if gap := BACKENDS[config.backend].missing(config.precision):
            return gap
        try:
            if not config.random_weights and not (config.repo and config.hub):
                find_weights(config, cls.size)
        except DataError as error:
            return str(error).replace("\n  hint: ", "; ")
        return None

    @classmethod
    def describe_weights(cls, path: Any) -> Mapping[str, str] | None:
        """Description of a file or folder of weights of any size (`dav2_weights.describe`)."""
        return dav2_weights.describe(Path(path).expanduser())

    @property
    def release(self) -> Release:
        """The release of the weights; the constructor rejects a file known to be the other release."""
        return self.config.release

    def digest(self) -> str:
        """SHA-256 of the file of weights; of the tensors if they are random."""
        return self._digest

    def train(self, mode: bool = True) -> Self:
        """Keeps evaluation mode, since the encoder is frozen (§3)."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor) -> Features:
        """RGB in [0, 1] with sides that are multiples of 14 → four maps [B, H/14, W/14, channels]."""
        grid = patch_grid(image_B3HW, encoder=self.size.encoder)
        mean, std = self.get_buffer("mean_311"), self.get_buffer("std_311")
        normal_B3HW = (image_B3HW.to(mean.dtype) - mean) / std
        taps_BTC = self._backend.taps(self.backbone, normal_B3HW)
        first, second, third, fourth = (
            tap[:, self.prefix_tokens :].unflatten(1, grid).to(mean.dtype) for tap in taps_BTC
        )
        return Features((first, second, third, fourth))

    def depth_head_state(self) -> Mapping[str, Tensor]:
        """The DPT head of the same file, by Hugging Face name (neck.*, head.*), for the dense baselines.

        Raises DataError if the file has none, or if it has changed since the encoder was read.
        """
        wanted = ReleasedFile(self.size, self.config.release)
        if self.config.random_weights:
            raise DataError("an encoder with random weights has no depth head", hint=wanted.how_to_get)
        released = read_weights(self._path, self.size)
        if released.sha256 != self._digest:
            raise DataError("the file has changed since its encoder was read", where=str(self._path))
        if released.head is None:
            raise DataError(
                "holds an encoder without a depth head",
                where=str(self._path),
                hint=f"{wanted.name} holds both: {wanted.how_to_get}",
            )
        return released.head


class DAv2Small(DAv2Encoder):
    """Depth Anything V2 Small: ViT-S/14, the encoder of §3. Licence Apache-2.0."""

    size = SMALL
    channels = SMALL.dim
    licence = "Apache-2.0: keep the licence and its notices with copies"


class DAv2Base(DAv2Encoder):
    """Depth Anything V2 Base: ViT-B/14. Its weights are CC-BY-NC-4.0, no commercial use."""

    size = BASE
    channels = BASE.dim
    licence = NON_COMMERCIAL


class DAv2Large(DAv2Encoder):
    """Depth Anything V2 Large: ViT-L/14. Its weights are CC-BY-NC-4.0, no commercial use."""

    size = LARGE
    channels = LARGE.dim
    licence = NON_COMMERCIAL


def _refuse_other_release(path: Path, sha256: str, wanted: ReleasedFile) -> None:
    """Raises DataError for a known file of the other release: both have the same tensors, but differ in meaning."""
    known = SHA256.get(sha256, wanted)
    if known.name != wanted.name:
        raise DataError(
            f"is the {known.title}, expected the {wanted.title}",
            where=str(path),
            hint=f"set the encoder's release to {known.release}, or {wanted.how_to_get}",
        )


def backbone_config(size: DAv2Size) -> Any:
    """transformers' config of the ViT: normalised features of the layers `taps`, with CLS first."""
    from transformers import Dinov2Config

    return Dinov2Config(
        hidden_size=size.dim,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        mlp_ratio=4,
        image_size=size.grid * PATCH,
        patch_size=PATCH,
        out_indices=[tap + 1 for tap in size.taps],  # 0 is the embedding
        apply_layernorm=True,
        reshape_hidden_states=False,
        attn_implementation="sdpa",
    )


def pretrained_backbone(state: Mapping[str, Tensor], size: DAv2Size) -> nn.Module:
    """The ViT on the CPU with these weights, by the names of a Hugging Face file, which `read_weights` has checked.

    transformers renames them for its own version. It fills missing tensors with random numbers and only logs that, so
    anything that it reports raises RuntimeError.
    """
    from transformers import Dinov2Backbone
    from transformers.utils import logging

    bar_was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.device("cpu"):
            backbone, report = Dinov2Backbone.from_pretrained(
                None, config=backbone_config(size), state_dict=dict(state), output_loading_info=True
            )
    finally:
        if bar_was_on:
            logging.enable_progress_bar()
    if any(report.values()):
        raise RuntimeError(f"this version of transformers does not take DINOv2's published tensors: {report}")
    model: nn.Module = backbone
    return model


def random_backbone(size: DAv2Size) -> nn.Module:
    """The ViT with transformers' initial weights from seed 0, the same in every run; keeps the global generator."""
    from transformers import Dinov2Backbone

    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = Dinov2Backbone(backbone_config(size))
    return model
