"""The tables of a profile, for the terminal and as Markdown, with the same sections in the same order."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from spd_bench.cost.timing import Spread, ratio
from spd_bench.profile.results import (
    DENSE,
    LITERAL,
    SPARSE,
    TARGETS_FOR,
    ModelProfile,
    Profile,
    crossovers,
    digits,
    literal_over,
    over_dense,
    spread_text,
    targets,
)
from spd_bench.report.comparison import markdown_escape, one_line

WIDTH = 160
NONE = "–"


class ProfileTable(NamedTuple):
    """One section of a profile."""

    heading: str
    """Its heading."""
    titles: Sequence[str]
    """Column titles."""
    rows: Sequence[Sequence[str]]
    """Rows; the first cell is the row's name."""
    remarks: Sequence[str] = ()
    """Lines below the table."""


def profile_terminal(profile: Profile) -> str:
    """All sections of a profile for the terminal, no wider than WIDTH."""
    parts = ["\n".join(_wrapped(_headline(profile)))]
    for table in _tables(profile):
        parts.append("\n".join([table.heading, "", _grid(table, "simple"), *_wrapped(table.remarks)]))
    return "\n\n".join(parts) + "\n"


def profile_markdown(profile: Profile) -> str:
    """All sections of a profile as Markdown."""
    parts = ["\n".join(f"- {line}" for line in map(markdown_escape, _headline(profile)))]
    for table in map(_escaped, _tables(profile)):
        remarks = "".join(f"\n- {line}" for line in table.remarks)
        parts.append(f"### {table.heading}\n\n{_grid(table, 'pipe')}" + (f"\n{remarks}" if remarks else ""))
    return "\n\n".join(parts) + "\n"


def _escaped(table: ProfileTable) -> ProfileTable:
    """The table with every text escaped for Markdown."""
    titles, remarks = [list(map(markdown_escape, texts)) for texts in (table.titles, table.remarks)]
    rows = [list(map(markdown_escape, row)) for row in table.rows]
    return ProfileTable(markdown_escape(table.heading), titles, rows, remarks)


def _grid(table: ProfileTable, form: str) -> str:
    from tabulate import tabulate

    align = ["left", *["right"] * (len(table.titles) - 1)]
    return str(tabulate(table.rows, headers=table.titles, tablefmt=form, disable_numparse=True, colalign=align))


def _wrapped(lines: Iterable[str]) -> Iterator[str]:
    return (textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False) for line in lines)


def _headline(profile: Profile) -> list[str]:
    height, width = profile.image_size
    lines = [f"STAND-INS: {'; '.join(profile.stand_ins)}"] if profile.stand_ins else []
    lines += [
        f"Cost of suite {profile.suite}, profile {profile.profile}: {profile.encoder} at {height}×{width}, one image",
        f"Medians of {profile.rounds} rounds, with quartiles; each round calls everything once, ratios are within it",
        "Initial weights and a random image: times do not depend on training, except on how close together B4 reads",
        *profile.settings.lines(),
    ]
    lines += [f"NOT MEASURED {name}: {why}" for name, why in profile.skipped.items()]
    return [one_line(line) for line in lines]


def _tables(profile: Profile) -> Iterator[ProfileTable]:
    yield _times(profile)
    if profile.model(DENSE):
        yield _ratios(profile)
        yield _end_to_end(profile)
    if profile.model(LITERAL):
        yield _literal(profile)
    if crossovers(profile):
        yield _crossovers(profile)
    yield _memory(profile)
    yield _work(profile)
    yield from (_blocks(model) for model in profile.models if model.kind != "baseline" or model.name == LITERAL)
    if profile.training:
        yield _training(profile)
    yield _targets(profile)


def _titles(profile: Profile, what: str) -> list[str]:
    return [f"{what} K={k}".strip() for k in profile.ks]


def _times(profile: Profile) -> ProfileTable:
    rows = [
        [
            one_line(model.name),
            spread_text(model.prepare.spread, scale=1e3),
            *(spread_text(model.decode[k].spread, scale=1e3) for k in profile.ks),
        ]
        for model in profile.models
    ]
    encode = f"T_encode, the same for all models: {spread_text(profile.encode.spread, scale=1e3)} ms"
    return ProfileTable("Times in ms", ["model", "T_prepare", *_titles(profile, "T_decode")], rows, [encode])


def _share(found: Spread | None) -> str:
    return NONE if found is None else spread_text(found)


def _ratios(profile: Profile) -> ProfileTable:
    rows = [
        [
            one_line(model.name),
            _share(over_dense(profile, model.prepare, profile.ks[0])),
            *(_share(over_dense(profile, model.decode[k], k)) for k in profile.ks),
        ]
        for model in profile.models
    ]
    remark = f"T_dpt: T_prepare + T_decode(K) of {DENSE}, the dense head in the same precision"
    return ProfileTable("Shares of T_dpt", ["model", "T_prepare", *_titles(profile, "T_decode")], rows, [remark])


def _end_to_end(profile: Profile) -> ProfileTable:
    dense = profile.model(DENSE)
    assert dense is not None
    rows = [
        [
            one_line(model.name),
            *(
                _share(ratio(profile.encode + model.whole(k), profile.encode + dense.whole(k)))
                for k in profile.ks
            ),
        ]
        for model in profile.models
    ]  # fmt: skip
    free = ratio(profile.encode, profile.encode + dense.whole(profile.ks[0]))
    remark = f"The encoder alone, the limit for any decoder: {spread_text(free)}"
    title = "End to end: T_encode + T_prepare + T_decode(K), as a share of the dense model's"
    return ProfileTable(title, ["model", *_titles(profile, "")], rows, [remark])


def _literal(profile: Profile) -> ProfileTable:
    cells = [_share(literal_over(profile, k)) for k in profile.ks]
    return ProfileTable(
        "Literal transcription over base, T_decode(K)", ["", *_titles(profile, "")], [[LITERAL, *cells]],
        ["The transcription decodes all K together, as the formulas are written; the base decodes in chunks"],
    )  # fmt: skip


def _crossovers(profile: Profile) -> ProfileTable:
    names = {DENSE: "dense head", SPARSE: "sparse-tail DPT"}
    rows = [[f"{one_line(profile.base.name)} and {names[n]} ({n})", at.text] for n, at in crossovers(profile).items()]
    remark = "Between two measured K, the logarithm of the ratio is interpolated linearly in log K"
    return ProfileTable("Crossover: T_prepare + T_decode(K) equal at", ["", "K"], rows, [remark])


def _memory(profile: Profile) -> ProfileTable:
    rows = [
        [
            one_line(model.name),
            digits(model.prepare_peak / 1e6),
            *(digits(model.decode_peak[k] / 1e6) for k in profile.ks),
        ]
        for model in profile.models
    ]
    on_gpu = profile.settings.device.startswith("cuda")
    how = "by the caching allocator" if on_gpu else "of tensors, without scratch memory of libraries"
    remark = f"Peak above the memory held before the call, {how}"
    return ProfileTable("Peak memory in MB", ["model", "prepare", *_titles(profile, "decode")], rows, [remark])


def _work(profile: Profile) -> ProfileTable:
    rows = [
        [
            one_line(model.name),
            f"{model.parameters:,}",
            digits(model.prepare_macs / 1e6),
            digits(sum(work.chunk.macs for work in model.decode_work.values()) / 1e6),
            digits(model.query_macs / 1e6),
        ]
        for model in profile.models
    ]
    titles = ["model", "trainable parameters", "M per image", "M per chunk of queries", "M per query"]
    remark = "Matrix products, convolutions, attention and bilinear reads; one FLOP count is two multiply-adds"
    return ProfileTable("Multiply-adds", titles, rows, [remark])


def _blocks(model: ModelProfile) -> ProfileTable:
    rows = []
    for block in dict.fromkeys([*model.prepare_work, *model.decode_work]):
        image, decode = model.prepare_work.get(block), model.decode_work.get(block)
        per_image = [digits(image.macs / 1e6), digits(image.bytes / 1e6)] if image else [NONE, NONE]
        per_query = [digits(decode.query.macs / 1e6), digits(decode.query.bytes / 1e3)] if decode else [NONE, NONE]
        per_chunk = [digits(decode.chunk.macs / 1e6), digits(decode.chunk.bytes / 1e6)] if decode else [NONE, NONE]
        rows.append([one_line(block), *per_image, *per_query, *per_chunk])
    titles = ["block", "M/image", "MB/image", "M/query", "kB/query", "M/chunk", "MB/chunk"]
    remark = (
        "Bytes: parameters, inputs and outputs of the block, once each, in fp32; without intermediate tensors and "
        "repeated reads"
    )
    return ProfileTable(f"Multiply-adds and least traffic by block: {one_line(model.name)}", titles, rows, [remark])


def _training(profile: Profile) -> ProfileTable:
    assert profile.training is not None
    timed = [(model.name, model.step) for model in profile.models if model.step is not None]
    base = profile.base.step
    assert base is not None
    rows = [[one_line(name), spread_text(step.spread), spread_text(ratio(step, base))] for name, step in timed]
    shape = profile.training
    title = f"Training step (features given, B={shape.batch}, K={shape.queries}; forward, backward, clipping, AdamW)"
    return ProfileTable(title, ["model", "s", "over base"], rows)


def _targets(profile: Profile) -> ProfileTable:
    rows = [[t.what, t.first, t.final, t.measured, t.met] for t in targets(profile)]
    remarks = ["Set for DAv2-S at 518×518 on a quiet machine; medians decide"]
    if (profile.encoder, profile.image_size) != TARGETS_FOR:
        remarks.append("This profile is of another encoder or size, so it decides no target")
    return ProfileTable("Targets", ["what", "first", "final", "measured", "met"], rows, remarks)
