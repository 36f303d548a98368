"""What a trial's model costs beside the references of the sweep's constraints."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from spd_bench.api import Features, PointDepthModel
from spd_bench.cost import timing
from spd_bench.sweep.file import WITH_K

ROUNDS = 9
"""How many times every cost is measured; the median counts."""
ANY_DEPTHS_M = torch.linspace(1, 9, 9)
"""A prior in metres; what a model costs does not depend on the depths that it expects."""


class TrialCosts:
    """Costs of several models on the same features, measured in turns."""

    def __init__(
        self,
        models: Mapping[str, PointDepthModel],
        features: Features,
        ks: Sequence[int],
        device: torch.device,
        *,
        on_call: Callable[[int, int], None],
    ) -> None:
        """models: name → model. ks: numbers of query points to time. on_call: as for `timing.measure`."""
        self.parameters = {who: sum(p.numel() for _, p in model.trainable()) for who, model in models.items()}
        calls: dict[tuple[str, int | None], Callable[[], object]] = {}
        for who, model in models.items():
            on_device = model.to(device).eval()
            on_device.fit_prior(ANY_DEPTHS_M)  # without one, some refuse to decode
            scene = _without_gradient(on_device.prepare, features)()
            calls[who, None] = _without_gradient(on_device.prepare, features)
            for k in ks:
                xy_1K2 = torch.rand(1, k, 2, generator=torch.Generator().manual_seed(0)).to(device)
                calls[who, k] = _without_gradient(on_device.decode, scene, xy_1K2)
        self._timed = timing.measure(calls, rounds=ROUNDS, device=device, on_call=on_call)

    def of(self, who: str, cost: str, k: int | None) -> float:
        """A model's number of trainable parameters, or its median milliseconds per image."""
        return float(self.parameters[who]) if cost == "parameters" else 1e3 * self._timing(who, cost, k).spread.median

    def ratio(self, who: str, other: str, cost: str, k: int | None) -> float:
        """A model's cost as a multiple of another's; times are compared round by round."""
        if cost == "parameters":
            return self.parameters[who] / max(1, self.parameters[other])
        return timing.ratio(self._timing(who, cost, k), self._timing(other, cost, k)).median

    def _timing(self, who: str, cost: str, k: int | None) -> timing.Timing:
        if cost == "t_prepare":
            return self._timed[who, None]
        assert cost in WITH_K
        decode = self._timed[who, k]
        return decode if cost == "t_decode" else self._timed[who, None] + decode


def _without_gradient(call: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return call(*args)

    return run
