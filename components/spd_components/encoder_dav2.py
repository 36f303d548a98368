"""The frozen encoder of §3: Depth Anything V2's ViT-S/14, through transformers' DINOv2.

Four maps, taken after layers [2, 5, 8, 11] counted from 0, each through the final LayerNorm, without the CLS
token (R-22); 22,056,576 parameters (R-21), none of them trained.

Inputs other than 518×518 use position embeddings resized to their grid. transformers resizes them to the
target size; the authors' code passes a scale factor with 0.1 added, so that the two differ slightly there and
not at all at 518×518, where nothing is resized.

Letters: B images, C channels, H W pixels or cells of the named map, T tokens.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from spd_bench.api import ComponentConfig, Encoder, Features
from spd_bench.errors import DataError
from spd_components.dav2_weights import (
    HUGGING_FACE_FILE,
    RELEASE,
    RELEASE_FILE,
    VIT_S,
    ReleasedWeights,
    ViTSize,
    listed,
    read_weights,
)
from spd_components.encoder_support import PATCH, computing_in, patch_grid

VARIABLE = "DAV2_WEIGHTS"
"""Environment variable that holds the default of the option `weights`."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class DAv2Small(Encoder):
    """Encoder `dav2_small`: frozen ViT-S of Depth Anything V2 (§3).

    Raises DataError for weights that are not there, damaged or of another model, and ConfigError for an input
    whose sides are not multiples of 14. `size` is for tests.
    """

    class Config(ComponentConfig):
        """Where the weights are, and how to compute."""

        weights: str | None = None
        """File or directory with the weights; the environment variable DAV2_WEIGHTS when not given."""
        repo: str | None = None
        """Hugging Face repository to take model.safetensors from, instead of `weights`."""
        revision: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
        """Commit of `repo`, 40 hexadecimal digits."""
        hub: bool = False
        """Whether `repo` may be downloaded; otherwise only the local cache is read."""
        random_weights: bool = False
        """Run without weights, on random ones: for trying the machinery, never for results."""
        precision: Literal["fp32", "bf16"] = "fp32"
        """Precision of matrix products; the four maps are float32 in both."""

        @model_validator(mode="after")
        def _one_source(self) -> Self:
            if sum([self.weights is not None, self.repo is not None, self.random_weights]) > 1:
                raise ValueError("give only one of weights, repo and random_weights")
            if (self.repo is None) != (self.revision is None):
                raise ValueError("repo and revision (40 hexadecimal digits) go together")
            if self.hub and self.repo is None:
                raise ValueError("hub allows the download of a repo; give repo and revision")
            return self

    def __init__(self, config: Config, *, size: ViTSize = VIT_S) -> None:
        super().__init__()
        self.config = config
        self.size = size
        self.channels = size.dim
        self.backbone: nn.Module
        if config.random_weights:
            self.stand_in = "random weights instead of DAv2-S"
            self.backbone = random_backbone(size)
            self._digest = digest_of_tensors(self.backbone.state_dict())
        else:
            path = find_weights(config)
            released = read_weights(path, layers=size.layers)
            self.backbone = pretrained_backbone(released.backbone, size, where=str(path))
            self._path, self._digest = path, released.sha256
        mean_3, std_3 = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("mean_311", mean_3.view(3, 1, 1), persistent=False)
        self.register_buffer("std_311", std_3.view(3, 1, 1), persistent=False)
        self.to(torch.get_default_device())  # weights are always read on the CPU, also under the meta device
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """What is missing to build it with this config and how to get it; None if nothing is."""
        try:
            if not config.random_weights and not (config.repo and config.hub):
                find_weights(config)
        except DataError as error:
            return str(error)
        return None

    def digest(self) -> str:
        """SHA-256 of the file of weights; of the tensors themselves where they are random."""
        return self._digest

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: the encoder is frozen (§3)."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor) -> Features:
        """RGB in [0, 1] with sides that are multiples of 14 → four maps [B, H/14, W/14, 384]."""
        grid = patch_grid(image_B3HW, encoder="dav2_small")
        mean, std = self.get_buffer("mean_311"), self.get_buffer("std_311")
        normal_B3HW = (image_B3HW.to(mean.dtype) - mean) / std
        with computing_in(self.config.precision, image_B3HW.device):
            tokens_BTC = self.backbone(normal_B3HW).feature_maps
        first, second, third, fourth = (tap[:, 1:].unflatten(1, grid).to(mean.dtype) for tap in tokens_BTC)
        return Features((first, second, third, fourth))

    def depth_head_state(self) -> Mapping[str, Tensor]:
        """The DPT head that the same file holds, by Hugging Face name (neck.*, head.*), for the dense baselines.

        Raises DataError if there is none, or if the file has changed since the encoder was read.
        """
        if self.config.random_weights:
            raise DataError("an encoder with random weights has no depth head", hint=how_to_get())
        released: ReleasedWeights = read_weights(self._path, layers=self.size.layers)
        if released.sha256 != self._digest:
            raise DataError("the file has changed since its encoder was read", where=str(self._path))
        if released.head is None:
            raise DataError(
                "holds an encoder without a depth head",
                where=str(self._path),
                hint=f"use {RELEASE_FILE} of the release {RELEASE}, which holds both",
            )
        return released.head


def how_to_get() -> str:
    """Where the public weights are and how to point at them."""
    return (
        f"download {RELEASE_FILE} of the public release {RELEASE} and set {VARIABLE}=/path/to/{RELEASE_FILE}, "
        "or the option weights of dav2_small"
    )


def find_weights(config: DAv2Small.Config) -> Path:
    """The file that the options or DAV2_WEIGHTS point at; DataError saying how to get it if there is none."""
    if config.repo is not None:
        return _from_hub(config.repo, str(config.revision), download=config.hub)
    given = config.weights or os.environ.get(VARIABLE)
    if not given:
        raise DataError("the weights of Depth Anything V2 Small are needed and none are given", hint=how_to_get())
    path = Path(given).expanduser()
    if not path.is_dir():
        if not path.is_file():
            raise DataError("no such file of weights", where=str(path), hint=how_to_get())
        return path
    held = [path / name for name in (RELEASE_FILE, HUGGING_FACE_FILE) if (path / name).is_file()]
    if len(held) != 1:
        found = "both of them" if held else "neither"
        raise DataError(
            f"expected {RELEASE_FILE} or {HUGGING_FACE_FILE} in this directory, found {found}",
            where=str(path),
            hint="give the file itself" if held else how_to_get(),
        )
    return held[0]


def _from_hub(repo: str, revision: str, *, download: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repo, HUGGING_FACE_FILE, revision=revision, local_files_only=not download))
    except (OSError, ValueError, HfHubHTTPError) as error:
        place = "could not be downloaded" if download else "is not in the local Hugging Face cache"
        raise DataError(
            f"{HUGGING_FACE_FILE} at revision {revision} {place} ({type(error).__name__})",
            where=repo,
            hint="check the repository and the network" if download else "set hub: true to download it",
        ) from error


def backbone_config(size: ViTSize) -> Any:
    """transformers' description of the ViT: features of the layers `taps`, normalised, CLS still in front."""
    from transformers import Dinov2Config

    return Dinov2Config(
        hidden_size=size.dim,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        mlp_ratio=4,
        image_size=size.grid * PATCH,
        patch_size=PATCH,
        out_indices=list(size.taps),
        apply_layernorm=True,
        reshape_hidden_states=False,
        attn_implementation="sdpa",
    )


def pretrained_backbone(state: Mapping[str, Tensor], size: ViTSize, *, where: str) -> nn.Module:
    """The ViT with these weights, on the CPU.

    transformers fills what a file lacks with random numbers and only logs it, so anything that it reports is
    an error here: DataError.
    """
    from transformers import Dinov2Backbone
    from transformers.utils import logging

    bar_was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.device("cpu"):
            backbone, report = Dinov2Backbone.from_pretrained(
                None,
                config=backbone_config(size),
                state_dict=dict(state),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    finally:
        if bar_was_on:
            logging.enable_progress_bar()
    wrong_size = [
        f"{name} {tuple(found)} instead of {tuple(wanted)}" for name, found, wanted in report["mismatched_keys"]
    ]
    problems = [*report["missing_keys"], *report["unexpected_keys"], *wrong_size, *report["error_msgs"]]
    if problems:
        raise DataError(
            f"does not fit ViT-S/14: {listed(problems)}",
            where=where,
            hint=f"Base and Large are other models; {how_to_get()}",
        )
    model: nn.Module = backbone
    return model


def random_backbone(size: ViTSize) -> nn.Module:
    """The ViT with transformers' initial weights from seed 0, the same in every run; global state is untouched."""
    from transformers import Dinov2Backbone

    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = Dinov2Backbone(backbone_config(size))
    return model


def digest_of_tensors(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and values."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
