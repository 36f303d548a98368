"""What the runs say of a point, as an HTML table; every text in it is escaped."""

import html
from collections.abc import Mapping, Sequence

from spd_bench.explore.overlays import Point
from spd_bench.explore.pictures import Picture
from spd_bench.explore.session import Problem, RunReading

HEAD = (
    '<tr><th scope="col">run</th><th scope="col">depth</th><th scope="col">error</th>'
    '<th scope="col"><abbr title="encoder and pre-compute, once per image">T<sub>encode</sub></abbr></th>'
    '<th scope="col"><abbr title="this answer">T<sub>decode</sub>(1)</abbr></th></tr>'
)


def about_point(picture: Picture, point: Point | None) -> str:
    """The point and its true depth in one line."""
    if point is None:
        return f"{picture.name}: click into it, or focus it and press an arrow key"
    u, v = point
    if picture.truth_m_HW is None:
        truth = "no true depth: the image was dropped in"
    else:
        truth_m = picture.truth_m(u, v)
        truth = "true depth unknown here" if truth_m is None else f"truth {truth_m:.3f} m"
    return f"{picture.name}: pixel ({u:g}, {v:g}) of {picture.width}×{picture.height} · {truth}"


def readings_table(answers: Sequence[RunReading | Problem], colours: Mapping[str, str]) -> str:
    """One row per run: depth, error, T_encode and T_decode, or why there is none."""
    rows = [_row(answer, colours) for answer in answers]
    marked = any(isinstance(answer, RunReading) and answer.outside for answer in answers)
    foot = '<p class="note">* outside the depths that training saw</p>' if marked else ""
    return f'<table class="readings"><thead>{HEAD}</thead><tbody>{"".join(rows)}</tbody></table>{foot}'


def _row(answer: RunReading | Problem, colours: Mapping[str, str]) -> str:
    swatch = f'<i style="background:{colours[answer.run]}"></i>'
    head = f'<th scope="row"><span>{swatch}{html.escape(answer.run)}</span></th>'
    if isinstance(answer, Problem):
        return f'<tr>{head}<td colspan="4" class="problem">{html.escape(answer.text)}</td></tr>'
    star = "*" if answer.outside else ""
    cells = [
        f"{answer.depth_m:.3f} m{star}",
        _error(answer),
        f"{answer.encode_ms:.0f} ms",
        f"{answer.decode_ms:.1f} ms",
    ]
    return f"<tr>{head}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _error(answer: RunReading) -> str:
    if answer.error_m is None or answer.truth_m is None:
        return "–"
    return f"{answer.error_m:+.3f} m<br><small>{100 * answer.error_m / answer.truth_m:+.1f} %</small>"
