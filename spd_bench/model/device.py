"""The torch device of a name on the command line."""

import torch

from spd_bench.errors import ConfigError, DataError, quoted


def device_named(name: str) -> torch.device:
    """The device that --device means; ConfigError for an unknown name, DataError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")  # refused like every other kind
    hint = "auto, cpu, cuda or cuda:N"
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"unknown device {quoted(name)}", where="--device", hint=hint)
    if device.type == "cuda" and (device.index or 0) >= max(torch.cuda.device_count(), 1):
        raise DataError(f"there are {torch.cuda.device_count()} CUDA devices", where=f"--device {name}", hint=hint)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError("no CUDA device is available here", where=f"--device {name}", hint="use --device cpu")
    return device
