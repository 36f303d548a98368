"""NYU Depth V2's labelled frames: which split and scene each belongs to, and which scenes serve for validation.

`nyu_scenes.csv` holds one row per labelled frame: split ("train", 795 frames of 249 scenes, or "test", 654 frames
of 215 others), index0 (0-based place in the .mat, the number in BTS-lineage file names) and scene (§7.1, R-20).
"""

import csv
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from spd_bench.data.randomness import key_digest

TABLE = Path(__file__).with_name("nyu_scenes.csv")


class LabelledFrame(NamedTuple):
    """One row of the table."""

    split: str
    """"train" or "test" of the Eigen split."""
    index0: int
    """0-based index in the .mat."""
    scene: str
    """Name of the scene, such as kitchen_0004."""


@cache
def labelled_frames() -> dict[int, LabelledFrame]:
    """All 1449 labelled frames by their 0-based index in the .mat."""
    with TABLE.open(newline="") as file:
        rows = (LabelledFrame(row["split"], int(row["index0"]), row["scene"]) for row in csv.DictReader(file))
        return {row.index0: row for row in rows}


def is_validation_scene(scene: str) -> bool:
    """Whether a training scene is held out for model choice: about one in ten, fixed by a hash of its name.

    21 of the 249 labelled training scenes (62 of 795 frames); with the 24,231 synced pairs 21 scenes, 1,719 pairs.
    """
    return int.from_bytes(key_digest("nyu validation scene", scene)[:8], "little") % 10 == 0


def scene_of_folder(folder: str) -> str:
    """Scene of a raw recording folder: several recordings of one room differ in a last letter (`kitchen_0028b`)."""
    return re.sub(r"(?<=\d)[a-z]$", "", folder)
