"""Descriptions for the command line: components, weight files, parameter counts, differences between runs."""

import fnmatch
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spd_bench import registry
from spd_bench.errors import ConfigError, DataError, SpdError, StateError, did_you_mean, quoted
from spd_bench.store import records
from spd_bench.store.differences import differences
from spd_bench.store.run_root import RUN, Identity, RunRecord

PAPER_BUDGET = {
    "Pyramid neck (§4)": "~298K",
    "B3 K/V projections (§5.1)": "~296K",
    "W_g anchor projection (§5.2)": "~74K",
    "B4 W_V pre-projections (§5.3)": "~136K",
    "Calibration heads (§5.4)": "~0.8K",
    "B1: feature extraction + tokens (§6.1)": "~142K",
    "B2: local cross-attention (§6.2)": "~891K",
    "B3: global cross-attention (§6.3)": "~740K",
    "B4: deformable read + fusion (§6.4)": "~159K",
    "B5: fused cross-attention + depth head (§6.5)": "~1,430K",
}
"""§9's table of trainable parameters; its total is given as ~4,167K."""


def describe_component(name: str) -> str:
    """Description of every component of this name, from docstring, options and metadata.

    Raises ConfigError for an unknown name.
    """
    slot, _, short = name.rpartition("/")
    found = [entry for entry in registry.entries(slot or None) if entry.name == short]
    if not found:
        known = [entry.name for entry in registry.entries()]
        raise ConfigError(f"no component {quoted(name)}", hint=did_you_mean(short, known))
    return "\n\n".join(_describe(entry) for entry in found)


def _describe(entry: registry.Entry) -> str:
    component = registry.load(entry.slot, entry.name)
    origin = f"{entry.value}, {entry.distribution} {entry.version}, version {component.version}"
    lines = [f"{entry.slot}/{entry.name}   ({origin})"]
    lines += ["", inspect.cleandoc(component.__doc__ or "(no description)"), ""]
    if component.stand_in:
        lines.append(f"STAND-IN: {component.stand_in}")
    if entry.slot == "encoder":
        lines += _encoder_facts(component)
    for what in ("reads", "writes"):
        if hasattr(component, what):
            lines.append(f"{what}: {', '.join(sorted(getattr(component, what))) or 'nothing'}")
    if getattr(component, "left_out", None):
        lines.append("left out: " + ", ".join(f"{slot} → {use}" for slot, use in component.left_out.items()))
    lines.append(f"trainable parameters: {_parameters(component)}")
    lines.append("options:")
    lines += list(_options(component.Config)) or ["  none"]
    return "\n".join(lines)


def _encoder_facts(encoder: Any) -> Iterator[str]:
    """What an encoder says of itself: patch, widths, prefix tokens, licence."""
    widths = encoder.widths or (encoder.channels,) * 4
    yield f"patch: {encoder.patch}×{encoder.patch} pixels, both sides of an input are multiples of {encoder.patch}"
    yield f"channels of the four maps: {', '.join(map(str, widths))}"
    yield f"tokens before the patches, in no map: {encoder.prefix_tokens}"
    yield f"licence of the weights: {encoder.licence or 'not given by its author'}"


def _parameters(component: Any) -> str:
    """Number of parameters with default options, on an encoder of ViT-S width."""
    from spd_bench.api import Dims, Encoder, Link, PointDepthModel

    try:
        if issubclass(component, Link):
            parts: Any = component(component.Config(), Dims())
            return f"{sum(p.numel() for p in parts.parameters()):,}"
        if issubclass(component, PointDepthModel):
            nowhere = type("Nowhere", (Encoder,), {"forward": None, "digest": None})()
            return f"{sum(p.numel() for _, p in component(component.Config(), nowhere).trainable()):,}"
    except SpdError as error:
        return f"not counted here ({error.message})"
    return "none, frozen" if issubclass(component, Encoder) else "none"


def _options(config: Any) -> Iterator[str]:
    for name, field in config.model_fields.items():
        default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
        yield f"  {name}: {_type(field.annotation)}, {default}"
        if field.description:
            yield f"      {field.description}"


def _type(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation).replace("typing.", "")


def describe_weights(path: Path) -> dict[str, str]:
    """Description of a file or folder of weights, by the first encoder that recognises it.

    Raises DataError if `path` does not exist, if no encoder recognises it, or if it is damaged.
    """
    if not path.exists():
        raise DataError("no such file or folder", where=str(path))
    for name in registry.names("encoder"):
        found = registry.load("encoder", name).describe_weights(path)
        if found is not None:
            return dict(found)
    raise DataError(
        "no encoder knows this file", where=str(path), hint=f"encoders: {', '.join(registry.names('encoder'))}"
    )


def identity_differences(first: Path, second: Path) -> list[dict[str, str]]:
    """Fields in which the identities of two trained runs differ, each with both values.

    Raises ConfigError for a folder without a run.
    """
    found = differences(_identity(first), _identity(second))
    return [{"field": field, str(first): ours, str(second): theirs} for field, ours, theirs in found]


def _identity(path: Path) -> Identity:
    file = path / RUN if path.is_dir() else path
    if not file.is_file():
        raise ConfigError("no run.json there", where=str(path), hint="name a folder below runs/trained")
    try:
        return records.read(file, RunRecord)["identity"]
    except KeyError as error:
        raise StateError(f"cannot be read as a run ({error!r})", where=str(file)) from error


def parameter_budget(suite_name: str) -> list[dict[str, Any]]:
    """Trainable parameters of a suite's base by row of the paper's budget (§9), beside the paper's numbers."""
    from spd_bench.api import CHAIN, Dims
    from spd_bench.model import compose
    from spd_bench.suite.axes import compositions
    from spd_bench.suite.checks import check_options
    from spd_bench.suite.load import load_suite

    suite = load_suite(suite_name)
    base = compositions(suite)[0]
    dims = Dims()
    counted = dict.fromkeys(PAPER_BUDGET, 0)
    parts = {s: compose.ChosenPart(c.use, check_options(c, s)) for s, c in base.slots.items() if s != "encoder"}
    for slot in CHAIN:
        block = registry.load(slot, parts[slot].name)(parts[slot].config, dims)
        for name, parameter in block.named_parameters():
            row = _budget_row(block.budget, name) or f"{slot}: {parts[slot].name}"
            counted[row] = counted.get(row, 0) + parameter.numel()
    rows: list[dict[str, Any]] = [
        {"component": row, "paper (§9)": PAPER_BUDGET.get(row, "–"), "counted": count} for row, count in counted.items()
    ]
    return [*rows, {"component": "Total trainable", "paper (§9)": "~4,167K", "counted": sum(counted.values())}]


def _budget_row(budget: Any, name: str) -> str | None:
    """The row of the longest pattern that matches the beginning of a parameter's name; None if none matches."""
    fitting = [pattern for pattern in budget if fnmatch.fnmatch(name, pattern + "*")]
    return budget[max(fitting, key=len)] if fitting else None
