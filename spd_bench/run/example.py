"""A command that asks the base of a finished suite for depth in one of its test images."""

import io
import shlex
from pathlib import Path

from PIL import Image

from spd_bench.run.planning.plan import Experiment
from spd_bench.store import files


def example_command(root: Path, experiment: Experiment) -> str:
    """Writes the first test image to `<root>/reports/<suite>.example.png`; the `predict` command for its middle."""
    suite = experiment.suite.suite
    image_HW3 = experiment.data.read(experiment.data.frames("test")[0]).image_HW3
    path, content = root / "reports" / f"{suite}.example.png", io.BytesIO()
    Image.fromarray(image_HW3).save(content, format="PNG")
    files.write_bytes(path, content.getvalue())
    height, width = image_HW3.shape[:2]
    run = f"{suite}/{experiment.compositions[0].name}"
    words = ["spd-bench", "predict", str(path), "--run", run, "--at", f"{width // 2},{height // 2}"]
    return shlex.join(words if root == Path("runs") else [*words, "--runs", str(root)])
