"""Depths of one image, and all of a command as a table, CSV or JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.ask.record import TrainedRun

SHOWN = 40
"""Rows of an image that a table shows."""


@dataclass(frozen=True)
class Answer:
    """What one image was asked, and the depths."""

    image: str
    """Path of the image."""
    stem: str
    """What files made of it are called."""
    width: int
    """Columns of the image."""
    height: int
    """Rows of the image."""
    uv_N2: npt.NDArray[np.float64]
    """Points in pixels."""
    depth_m_N: npt.NDArray[np.float32]
    """Depth at each point in metres."""
    outside_N: npt.NDArray[np.bool_]
    """Which depths lie outside the range that training saw."""
    notes: tuple[str, ...]
    """How the image differs from the training frames."""
    files: tuple[str, ...] = ()
    """Files that were written of it."""

    def rows(self) -> list[dict[str, Any]]:
        """One row per point."""
        return [
            {
                "image": self.image,
                "u": _plain(u),
                "v": _plain(v),
                "depth_m": round(float(depth), 6),
                "outside": bool(out),
            }
            for (u, v), depth, out in zip(self.uv_N2.tolist(), self.depth_m_N, self.outside_N, strict=True)
        ]


def about(run: TrainedRun, name: str) -> dict[str, Any]:
    """What the reader of the depths has to know of the run."""
    seen = run.seen
    return {
        "run": name,
        "composition": run.composition,
        "seed": run.seed,
        "folder": str(run.folder),
        "trained_on": run.data,
        "training_sizes": [f"{w}×{h}" for h, w in seen.sizes] if seen else None,
        "training_depth_m": [round(seen.near_m, 3), round(seen.far_m, 3)] if seen else None,
        "stand_ins": list(run.stand_ins),
    }


def caption(run: TrainedRun, name: str) -> str:
    """The same as lines for people."""
    lines = [f"{name}: {run.label}" + (f" ({run.difference})" if run.difference else "")]
    lines.append(f"trained on {run.data}")
    if run.stand_ins:
        lines.append(f"STAND-INS: {'; '.join(run.stand_ins)}: these depths say nothing about the paper's")
    if run.seen is None:
        lines.append("an earlier version trained it: which depths and sizes training saw is not recorded")
    else:
        lines.append(f"training saw depths of {run.seen.near_m:.2f} to {run.seen.far_m:.2f} m")
    return "\n".join(lines)


def notes(answer: Answer) -> list[str]:
    """What is unfamiliar about an image and its depths, and what was written, one line each."""
    lines = [f"{answer.image}: {note}" for note in answer.notes]
    if out := int(answer.outside_N.sum()):
        lines.append(f"{answer.image}: {out} of {len(answer.outside_N)} depths lie outside what training saw")
    return lines


def table(answers: Sequence[Answer]) -> str:
    """Rows for people; of an image with many points the first, and a line that sums up the rest."""
    from tabulate import tabulate

    rows, sums = [], []
    for answer in answers:
        for row in answer.rows()[:SHOWN]:
            shown = f"{row['depth_m']:.3f}" + (" *" if row["outside"] else "")
            rows.append({"image": row["image"], "u": row["u"], "v": row["v"], "depth (m)": shown})
        if len(answer.depth_m_N) > SHOWN:
            low, middle, high = np.quantile(answer.depth_m_N, [0, 0.5, 1])
            sums.append(
                f"{answer.image}: {len(answer.depth_m_N)} points, {SHOWN} shown; depth {low:.3f} to {high:.3f} m, "
                f"median {middle:.3f} m; --format csv has all"
            )
    text = [tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)] if rows else []
    if any(answer.outside_N.any() for answer in answers):
        sums.append("* outside the depths that training saw")
    return "\n".join([*text, *sums])


def as_csv(answers: Sequence[Answer]) -> str:
    """One line per point: image, u, v, depth_m, outside (1: outside the depths that training saw)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", "u", "v", "depth_m", "outside"])
    for answer in answers:
        writer.writerows([r["image"], r["u"], r["v"], r["depth_m"], int(r["outside"])] for r in answer.rows())
    return stream.getvalue().rstrip("\n")


def as_json(answers: Sequence[Answer], run: TrainedRun, name: str) -> str:
    """The run, and each image with its size, points, notes and files."""
    images = [
        {
            "image": answer.image,
            "width": answer.width,
            "height": answer.height,
            "unfamiliar": list(answer.notes),
            "points": [{key: row[key] for key in ("u", "v", "depth_m", "outside")} for row in answer.rows()],
            "files": list(answer.files),
        }
        for answer in answers
    ]
    return json.dumps({"run": about(run, name), "images": images}, indent=1, ensure_ascii=False)


def _plain(number: float) -> float | int:
    return int(number) if number == int(number) else round(number, 4)
