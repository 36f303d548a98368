"""Writes `authors_reference.json`: what the authors' own `infer_image` gives for the model and image of the test.

Run once, by hand. It needs the authors' repository at commit a561b849ebae10a6f5ef49e26c83cbbcd36c71bf, OpenCV, and
torchvision or any module of that name whose `transforms.Compose` calls its steps in turn:

    pip install opencv-python-headless
    PYTHONPATH=tests python tests/baselines/make_authors_reference.py <their repository>
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from released import POINTS, RELEASES, random_release, write_picture

from spd_components.encoders.dav2_sizes import SMALL


def theirs(repository: Path, release: str, picture: Path) -> list[float]:
    """Output of their `infer_image` at `POINTS`, with the random weights of this release."""
    import cv2

    for name in [name for name in sys.modules if name.startswith("depth_anything_v2")]:
        del sys.modules[name]
    sys.path.insert(0, str(repository / ("metric_depth" if release == "metric_indoor" else "")))
    made: Any = importlib.import_module("depth_anything_v2.dpt").DepthAnythingV2
    sys.path.pop(0)
    options = {"max_depth": 20} if release == "metric_indoor" else {}
    model = made(encoder="vits", features=64, out_channels=[48, 96, 192, 384], **options)
    print(model.load_state_dict(random_release(SMALL, seed=RELEASES[release]), strict=False))
    map_HW = model.eval().infer_image(cv2.imread(str(picture)))
    print(release, map_HW.shape, float(map_HW.min()), float(map_HW.mean()), float(map_HW.max()), float(map_HW.std()))
    return [float(map_HW[v, u]) for u, v in POINTS]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = write_picture(Path(folder))
        found = {release: theirs(Path(sys.argv[1]), release, path) for release in RELEASES}
    Path(__file__).with_name("authors_reference.json").write_text(json.dumps(found, indent=1) + "\n")
