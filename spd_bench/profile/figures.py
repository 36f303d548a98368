"""The figure of a profile: total time of every model against K, with the crossovers."""

from typing import Any

from spd_bench.profile.results import Profile, crossovers
from spd_bench.report.comparison import one_line
from spd_bench.report.figures import BASE_LOOK, BLACK, COLOURS, draw, line_axes, looks, name_lines


def profile_svg(profile: Profile) -> str:
    """T_prepare + T_decode(K) in ms against K, both logarithmic: medians, quartiles as bands, crossovers as lines."""
    return draw(lambda figure: _totals(figure, profile))


def _totals(figure: Any, profile: Profile) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    axes = line_axes(figure, len(profile.models))
    styles = looks(model.name for model in profile.models if model.kind != "base")
    for model in profile.models:
        look = styles.get(model.name, BASE_LOOK)
        spreads = [model.whole(k).spread for k in profile.ks]
        axes.plot(profile.ks, [1e3 * s.median for s in spreads], markersize=4, **look)
        low, high = [1e3 * s.low for s in spreads], [1e3 * s.high for s in spreads]
        axes.fill_between(profile.ks, low, high, color=look["color"], alpha=0.15, linewidth=0)
    name_lines(figure, axes, [one_line(model.name) for model in profile.models])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # instead of powers of ten
    axes.yaxis.set_minor_formatter(NullFormatter())
    for number, (name, at) in enumerate(crossovers(profile).items()):
        if not at.side:
            axes.axvline(at.k, color=BLACK, linewidth=0.8, linestyle=":", zorder=1)
            said = f" {one_line(name)}: K={at.text}"
            axes.text(at.k, 0.02 + 0.05 * number, said, transform=axes.get_xaxis_transform(), fontsize=7)
    axes.set_xticks(profile.ks, [str(k) for k in profile.ks])
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes.set_xlabel("query points per image, K")
    axes.set_ylabel(f"T_prepare + T_decode(K) [ms], threads: {profile.settings.threads}")
    if profile.stand_ins:
        figure.supxlabel(one_line(f"STAND-INS: {'; '.join(profile.stand_ins)}"), fontsize=7, color=COLOURS[1])
