"""Position embeddings resized as the authors of Depth Anything V2 resize them (R-23).

A ViT trained on 37×37 patches has as many position embeddings; for another grid they are interpolated bicubically.
The authors, after DINOv2, give the interpolation a factor, (rows + 0.1)/37 and (columns + 0.1)/37, which also moves the
samples; transformers gives it the size. At 37×37 nothing is resized and both are equal.

The authors name the first image axis w and the second h. They use them in that order, so w is the height, and their
factors apply to the right axes on a grid that is not square.

Imports transformers: import this module inside a function.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

from spd_components.encoders.support import PATCH

OFFSET = 0.1
"""The authors' addition to the number of patches."""


class AuthorsEmbeddings(Dinov2Embeddings):  # type: ignore[misc]  # transformers is untyped
    """DINOv2's embeddings with the authors' resize."""

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Position embeddings [1, 1 + rows·columns, C] of an image of height × width pixels."""
        position_1TC: Tensor = self.position_embeddings
        grid = math.isqrt(position_1TC.shape[1] - 1)
        rows, columns = height // PATCH, width // PATCH
        if (rows, columns) == (grid, grid):
            return position_1TC
        patch_1CHW = position_1TC[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        factors = ((rows + OFFSET) / grid, (columns + OFFSET) / grid)
        resized_1CHW = F.interpolate(patch_1CHW, scale_factor=factors, mode="bicubic", align_corners=False)
        return torch.cat([position_1TC[:, :1], resized_1CHW.flatten(2).transpose(1, 2)], dim=1)


def use_authors_positions(backbone: nn.Module) -> None:
    """Makes a Dinov2Backbone resize position embeddings as the authors do, with its own weights."""
    with torch.device("meta"):  # draws no random numbers
        embeddings = AuthorsEmbeddings(backbone.config)
    embeddings.load_state_dict(backbone.get_submodule("embeddings").state_dict(), assign=True)
    backbone.embeddings = embeddings
