"""The harness around sparse query-point depth: composition, training, protocol, statistics.

`load` is the way to use what was trained:

    import spd_bench

    model = spd_bench.load("v13_ablation/v13")
    scene = model.encode("photo.jpg")
    depth_m = model.depth(scene, [(320, 240), (12.5, 40)])
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spd_bench.ask.model import EncodedImage, RunModel

__all__ = ["EncodedImage", "RunModel", "load"]


def load(
    run: "str | os.PathLike[str]",
    *,
    runs: "str | os.PathLike[str]" = "runs",
    seed: int | None = None,
    device: str = "auto",
) -> "RunModel":
    """A trained run as a model that answers for any image; needs neither its suite nor its data set.

    run: a folder of a run, `SUITE/COMPOSITION` as tables name it, a suite for its base, or a sweep for its best
    trial. runs: the folder of all runs, for names. seed: which run of a row; by default the one with the lowest seed.
    device: auto, cpu, cuda or cuda:N.

    Raises ConfigError for a name that means no run; StateError for a training that is not finished, a component that
    is gone or has another version, and a damaged checkpoint; DataError for missing encoder weights.
    """
    from spd_bench.predict.load import load_run

    return load_run(run, root=runs, seed=seed, device=device)


def __getattr__(name: str) -> object:
    """Classes of what `load` returns, for annotations; PyTorch is imported when one is asked for."""
    if name in ("EncodedImage", "RunModel"):
        from spd_bench.ask import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
