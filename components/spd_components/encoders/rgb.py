"""The encoder `rgb`: the image itself, for baselines that compute depth from it with a network of their own."""

import hashlib
import importlib.util
from pathlib import Path

from torch import Tensor

from spd_bench.api import ComponentConfig, Encoder, Features
from spd_bench.errors import ConfigError


class RGB(Encoder):
    """Four times the image, three channels, one cell per pixel: what the baseline `callable` sees.

    T_encode is then nothing, and the whole network counts as T_prepare. Raises ConfigError for a module that does not
    exist.
    """

    patch = 1
    channels = 3
    licence = "no weights"

    class Config(ComponentConfig):
        """What reads the image."""

        read_by: str | None = None
        """Module whose source is part of the digest, so that a change of it is another row; null: no module."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self._digest = hashlib.sha256(
            b"rgb" + (b"" if config.read_by is None else source_of(config.read_by))
        ).hexdigest()

    def forward(self, image_B3HW: Tensor) -> Features:
        """RGB in [0, 1], channels last, four times the same tensor."""
        image_BHW3 = image_B3HW.permute(0, 2, 3, 1)
        return Features((image_BHW3, image_BHW3, image_BHW3, image_BHW3))

    def digest(self) -> str:
        """SHA-256 of the name and of the source of `read_by`."""
        return self._digest


def source_of(module: str) -> bytes:
    """The bytes of a module's file; raises ConfigError where there is none."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.origin or not Path(found.origin).is_file():
        raise ConfigError(
            f'no module "{module}" with a file',
            hint="install the plugin that holds it, or set PYTHONPATH to its folder",
        )
    return Path(found.origin).read_bytes()
