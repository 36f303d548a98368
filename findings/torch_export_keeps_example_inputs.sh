#!/usr/bin/env bash
# torch.export.save of torch 2.13.0 writes the values of the example inputs into the file.
#
# Seen with torch 2.13.0: x @ w exported with w [1000, 1000] as an input, not a parameter, is a file of 4.0 MB, and the loaded
# program's example_inputs hold that very w; with program.example_inputs = None before saving it is 4 kB. Who exports a graph
# without its weights, or with an image of a private data set as the example, ships both. Exits 1 when this has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
WORK="$work" "$work/venv/bin/python" - <<'PY'
import os
from pathlib import Path

import torch


class Product(torch.nn.Module):
    """x @ w with both as inputs."""

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x @ w


folder = Path(os.environ["WORK"])
x, w = torch.zeros(2, 1000), torch.randn(1000, 1000)
program = torch.export.export(Product(), (x, w))
torch.export.save(program, folder / "as_exported.pt2")
program.example_inputs = None
torch.export.save(program, folder / "without.pt2")
sizes = {name: (folder / f"{name}.pt2").stat().st_size for name in ("as_exported", "without")}
print(torch.__version__, sizes)
assert sizes["as_exported"] > w.numel() * 4, "the example inputs are no longer in the file"
assert sizes["without"] < 100_000
(_, kept), _ = torch.export.load(folder / "as_exported.pt2").example_inputs
assert torch.equal(kept, w), "the loaded program holds the example's values"
PY
