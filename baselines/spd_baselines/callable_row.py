"""Baseline `callable`: any function of an image as a row, timed and scored like the rest.

The function takes an image, uint8 RGB [H, W, 3] at the suite's input size, and returns one of

    a map of depth in metres [h, w] of any size, which is read bilinearly at the queries
    a function of points [K, 2] in the unit square, (x, y), that returns their depth in metres [K]

In a module of the user's own, which `PYTHONPATH` or an installed plugin provides:

    def wall(image):
        return 4 - 2 * image.mean(axis=2) / 255

and in the suite `baselines: [{use: callable, function: "my_depth:wall"}]`.

Letters: B images, K points, H W pixels, h w cells of a map.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from spd_baselines.dpt_head import read_map
from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel
from spd_bench.errors import ConfigError

Answer = Tensor | Callable[[Any], Any]
"""What a function returned for one image: a map [h, w], or a function of points."""


class CallableRow(PointDepthModel):
    """Depth from a Python function, which is not trained here: its data, size and scale are its author's.

    The function runs in `prepare`, so that T_prepare is its time and T_decode the time of reading its answer. It may
    import what it likes, and it sees one image at a time, on the CPU. Raises ConfigError for a function that does not
    exist or returns something else. The source of its module is part of the row's identity, what it imports is not.
    """

    trained = False

    class Config(ComponentConfig):
        """The function."""

        function: str = Field(default="", pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$")
        """`module:function`; required."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.function = _function(config.function)

    @classmethod
    def own_encoder(cls, config: Any) -> Mapping[str, Any]:
        """`rgb`, which hands the image on and whose digest holds the function's module."""
        module = config.function.partition(":")[0]
        return {"use": "rgb", **({"read_by": module} if module else {})}

    def prepare(self, features: Features) -> list[Answer] | None:
        """The function's answer for each image; None on the meta device, where images have no values."""
        image_BHW3 = features.maps_BHWC[0]
        if image_BHW3.is_meta:
            return None
        images = (255 * image_BHW3).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        return [self._answer(np.ascontiguousarray(image_HW3), image_BHW3.device) for image_HW3 in images]

    def _answer(self, image_HW3: Any, device: torch.device) -> Answer:
        found = self.function(image_HW3)
        if callable(found) and not isinstance(found, Tensor):
            answer: Callable[[Any], Any] = found
            return answer
        map_HW = torch.as_tensor(found).detach()
        if map_HW.dim() != 2 or not map_HW.numel():
            raise ConfigError(
                f"{self.config.function} returned an array of shape {list(map_HW.shape)}, expected a map [h, w]",
                hint="return one depth in metres per pixel, or a function of points",
            )
        return map_HW.to(device)

    def decode(self, scene: list[Answer] | None, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square: [B, K]."""
        if scene is None:
            return xy_BK2[..., 0]
        return torch.stack([self._read(answer, xy_K2) for answer, xy_K2 in zip(scene, xy_BK2, strict=True)])

    def _read(self, answer: Answer, xy_K2: Tensor) -> Tensor:
        if isinstance(answer, Tensor):
            return read_map(answer[None].to(xy_K2.dtype), xy_K2[None])[0]
        depth_m_K = torch.as_tensor(answer(xy_K2.double().cpu().numpy()))
        if depth_m_K.shape != xy_K2.shape[:1]:
            raise ConfigError(
                f"{self.config.function} gave {list(depth_m_K.shape)} for {len(xy_K2)} points, expected one depth each"
            )
        return depth_m_K.to(xy_K2)


def _function(name: str) -> Callable[[Any], Any]:
    """The function `module:function`; raises ConfigError where there is none."""
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute) if module else None
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f'callable finds no function "{name}": {error}',
            hint="install the plugin that holds it, or set PYTHONPATH to its folder",
        ) from error
    if not callable(found):
        raise ConfigError(
            "callable needs its option function", hint='give {use: callable, function: "module:function"}'
        )
    function: Callable[[Any], Any] = found
    return function
