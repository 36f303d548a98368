"""The decoder's speed and memory as ratios, in one JSON file, and a check that none has become worse.

    python benchmarks/bench.py --out found.json --check benchmarks/reference.json

All is measured in one pinned process, interleaved (spd_bench/cost/timing.py), with random weights of DAv2-S's size.
A figure counts as worse if it is by more than `--tolerance` on the wrong side of the reference. Ratios to the literal
transcription depend on the machine less than milliseconds, which are recorded and never checked: between two processors
they differed by a sixth from 64 points on, but by three quarters at one point. A reference of another kind
of machine is named in the output.
"""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import torch
import typer

from spd_bench.cost import timing
from spd_bench.data.features import shards
from spd_bench.profile.measure import profile_suite
from spd_bench.profile.results import DENSE, LITERAL, Profile, TrainingShape, over_dense
from spd_bench.run.display import counting
from spd_bench.suite.load import load_suite

VIEWS = 16
"""Views in the shard that is read."""
WORSE = 1


class Figure(NamedTuple):
    """One measured figure."""

    value: float
    """Its value."""
    more_is_better: bool
    """Whether a larger value is better."""


def figures(profile: Profile) -> dict[str, Figure]:
    """Ratios of a profile of v13, literal over fast, and the peak memory in MB, which is the same on any machine."""
    base, literal = profile.base, profile.model(LITERAL)
    assert literal is not None
    assert base.step is not None
    assert literal.step is not None
    found = {
        "literal / fast, prepare": Figure(timing.ratio(literal.prepare, base.prepare).median, True),
        "literal / fast, training step": Figure(timing.ratio(literal.step, base.step).median, True),
    }
    for k in profile.ks:
        found[f"literal / fast, decode K={k}"] = Figure(timing.ratio(literal.decode[k], base.decode[k]).median, True)
    found[f"peak MB, decode K={profile.ks[-1]}"] = Figure(base.decode_peak[profile.ks[-1]] / 1e6, False)
    return found


def recorded(profile: Profile) -> dict[str, float]:
    """Returns what depends on the machine: shares of the dense head's time, and milliseconds."""
    base = profile.base
    found = {"ms, encode": 1e3 * profile.encode.spread.median, "ms, prepare": 1e3 * base.prepare.spread.median}
    for k in profile.ks:
        share = over_dense(profile, base.decode[k], k)
        found[f"ms, decode K={k}"] = 1e3 * base.decode[k].spread.median
        found |= {f"{DENSE} share, decode K={k}": share.median} if share else {}
    share = over_dense(profile, base.prepare, profile.ks[0])
    return found | ({f"{DENSE} share, prepare": share.median} if share else {})


def cache_read_s(image_size: tuple[int, int]) -> float:
    """Returns the median seconds of reading one view's features from a warm shard of the cache, as float32."""
    rows, columns = (side // 14 for side in image_size)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(VIEWS, rows, columns, 384, generator=generator).half().numpy() for _ in range(4)]
    names = [str(view) for view in range(VIEWS)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.h5"
        shards.write(path, "bench", names, maps)
        shard = shards.Shard.open(path, "bench", names, tuple((rows, columns, 384) for _ in range(4)))

        def read(view: int) -> object:
            return [torch.from_numpy(map_HWC).float() for map_HWC in shard.read(view)]

        calls = {view: (lambda view=view: read(view)) for view in range(VIEWS)}
        timed = timing.measure(calls, rounds=5, device=torch.device("cpu"))
    return median(one.spread.median for one in timed.values())


def worse(found: dict[str, Figure], reference: dict[str, float], tolerance: float) -> list[str]:
    """Returns a line for each figure beyond the tolerance on the wrong side; one without a reference is new."""
    lines = []
    for name, figure in found.items():
        if name in reference:
            limit = reference[name] * (1 - tolerance if figure.more_is_better else 1 + tolerance)
            if figure.value < limit if figure.more_is_better else figure.value > limit:
                lines.append(f"{name}: {figure.value:.3g}, reference {reference[name]:.3g}")
    return lines


def of_another_machine(settings: Sequence[str], reference: Mapping[str, Any]) -> str:
    """Returns a note if the reference was measured on another machine, else ""."""
    here, there = (lines[0].split(", load")[0] for lines in (settings, reference["settings"]))
    return "" if here == there else f"the reference is of another machine, where ratios may be others. {there}"


def main(
    out: Annotated[Path | None, typer.Option("--out", help="Write everything there, as JSON.")] = None,
    check: Annotated[Path | None, typer.Option("--check", help="Exit with 1 if a ratio is worse than in it.")] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, max=1, help="How much worse is too much.")] = 0.15,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="Times that everything is measured.")] = 5,
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="K up to 256 only.")] = False,
) -> None:
    """Measures, records and compares."""
    if not timing.is_pinned(threads):
        raise typer.Exit(timing.run_pinned(sys.orig_argv, threads))
    suite = load_suite("v13_ablation")
    with counting("profile") as on_call:
        profile = profile_suite(
            suite,
            ks=(1, 64, 256) if quick else (1, 64, 256, 1024, 4096),
            rounds=rounds,
            threads=threads,
            device=torch.device("cpu"),
            training=TrainingShape(2, 256),
            on_call=on_call,
        )
    found, read_s = figures(profile), cache_read_s(suite.data.image_size)
    record: dict[str, Any] = {
        "settings": profile.settings.lines(),
        "stand_ins": list(profile.stand_ins),
        "versions": dict(profile.versions),
        "finished": profile.finished,
        "checked": {name: figure.value for name, figure in found.items()},
        "recorded": recorded(profile)
        | {"ms, read of a cached view": 1e3 * read_s, "encode / read": profile.encode.spread.median / read_s},
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    typer.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if check is not None:
        reference = json.loads(check.read_text(encoding="utf-8"))
        lines = worse(found, reference["checked"], tolerance)
        if note := of_another_machine(record["settings"], reference):
            typer.echo(note)
        typer.echo("\n".join(["worse than the reference:", *lines]) if lines else f"nothing is worse than in {check}")
        if lines:
            raise typer.Exit(WORSE)


if __name__ == "__main__":
    typer.run(main)
