"""The run that a name means, as a model that answers."""

import os
from pathlib import Path

from spd_bench.ask.load import load_folder
from spd_bench.ask.model import RunModel
from spd_bench.model.device import device_named
from spd_bench.predict.names import find_run


def load_run(
    name: "str | os.PathLike[str]", *, root: "str | os.PathLike[str]", seed: int | None, device: str
) -> RunModel:
    """What `spd_bench.load` returns. Raises as `names.find_run`, `load_folder` and `device_named`."""
    return load_folder(find_run(os.fspath(name), root=Path(root), seed=seed), device=device_named(device))
