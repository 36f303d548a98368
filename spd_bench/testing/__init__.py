"""Contract kits: the tests of what the harness relies on in a component, for its author to subclass.

    from my_plugin import MyRead
    from spd_bench.testing import BlockContract

    class TestMyRead(BlockContract):
        component = MyRead
        options = {"radius": 3}  # only where the defaults do not fit

pytest then runs every `test_*` of the kit on it: `BlockContract`, `NeckContract`, `EncoderContract`, `BaselineContract`
and `DatasetContract`, or `ComponentContract` alone for the other slots. Every failure says what was expected.

Inputs are small and awkward on purpose: sizes that are not those of the paper, maps that are not square, points on
borders and corners. Models are compared in float64, where hard choices (top-R) do not flip by rounding; the tolerance
of 1e-5 leaves room for parts that compute in float32.

Letters: B images, K queries, T tokens, S sites of L4, R anchors, D core width, C H W channels, rows and columns.
"""

from spd_bench.testing.baseline import BaselineContract, BaselineExample, require_independent_points
from spd_bench.testing.block import BlockContract, BlockExample
from spd_bench.testing.component import ComponentContract
from spd_bench.testing.dataset import DatasetContract
from spd_bench.testing.encoder import EncoderContract, PatchEncoder
from spd_bench.testing.examples import (
    DIMS,
    MANY,
    example_features,
    example_points,
    example_pyramid,
    example_state,
)
from spd_bench.testing.module import ModuleContract, TrainedContract
from spd_bench.testing.neck import NeckContract

__all__ = [
    "DIMS",
    "MANY",
    "BaselineContract",
    "BaselineExample",
    "BlockContract",
    "BlockExample",
    "ComponentContract",
    "DatasetContract",
    "EncoderContract",
    "ModuleContract",
    "NeckContract",
    "PatchEncoder",
    "TrainedContract",
    "example_features",
    "example_points",
    "example_pyramid",
    "example_state",
    "require_independent_points",
]
