"""What graphs are made of in place of fused and cached forms, and that exporting leaves nothing behind."""

from typing import Any

import pytest
import torch
from torch import nn

from spd_bench import geometry
from spd_bench.fused import attention, forms
from spd_bench.geometry import constant, weighted_rows
from spd_components.blocks.layers import fourier
from spd_components.routing.anchors import top_sites


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: torch.Tensor) -> Any:
        return self.function(*given)


def exported(function: Any, *given: torch.Tensor) -> Any:
    with torch.no_grad():
        return torch.export.export(Calls(function), given)


def test_constants_made_meanwhile_are_not_kept() -> None:
    """A kept one would have no values, in this graph and in everything after it."""
    geometry._constant.cache_clear()
    exported(lambda x: x * constant([3.0, 5.0], like=x), torch.ones(2))
    exported(lambda x: fourier(x, 3), torch.rand(4, 2))
    assert geometry._constant.cache_info().currsize == 0
    assert constant([3.0, 5.0], like=torch.ones(1)).tolist() == [3, 5]
    assert type(constant([3.0, 5.0], like=torch.ones(1))) is torch.Tensor


def test_the_largest_weights_of_a_graph_are_those_of_routing() -> None:
    weight_BKS = torch.rand(2, 7, 30, generator=torch.Generator().manual_seed(0))
    weight_BKR, site_BKR = exported(lambda w: top_sites(w, 5), weight_BKS).module()(weight_BKS)
    with forms.stock():
        expected = top_sites(weight_BKS, 5)
    assert (weight_BKR == expected[0]).all()
    assert (site_BKR == expected[1]).all()


def test_ties_of_a_graph_have_the_weights_of_routing() -> None:
    """Which of equal weights a graph takes is its runtime's choice; the weights are the same."""
    weight_BKS = torch.tensor([[[0.1, 0.3, 0.3, 0.3, 0.0]]])
    weight_BKR, _ = exported(lambda w: top_sites(w, 3), weight_BKS).module()(weight_BKS)
    assert torch.equal(weight_BKR, top_sites(weight_BKS, 3)[0])


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_weighted_rows_of_a_graph_are_the_same_sums(kind: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    table_NC, weight_QS = torch.rand(11, 4, generator=rng), torch.rand(6, 3, generator=rng)
    row_QS = torch.randint(11, (6, 3), generator=rng).to(kind)
    graph = exported(weighted_rows, table_NC, row_QS, weight_QS)
    torch.testing.assert_close(graph.module()(table_NC, row_QS, weight_QS), weighted_rows(table_NC, row_QS, weight_QS))
    names = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert not any("embedding_bag" in name for name in names)


def test_no_kernel_runs_on_tensors_without_values() -> None:
    asked = []
    exported(lambda x: asked.append(forms.ready(x)) or x + 1, torch.rand(4, 192))
    assert asked
    assert not any(asked)


def test_pointers_are_taken_where_a_kernel_needs_them() -> None:
    """Under export weights lie nowhere; `LayerWeights` is made there all the same."""
    norm, square = nn.LayerNorm(8), nn.Linear(8, 8)

    def made(x: torch.Tensor) -> torch.Tensor:
        weights = attention.LayerWeights(norm, square, square, norm, square, square)
        assert "pointers" not in vars(weights)
        return x + weights.hidden

    exported(made, torch.rand(3))
    weights = attention.LayerWeights(norm, square, square, norm, square, square)
    assert weights.pointers[0] == norm.weight.data_ptr()
