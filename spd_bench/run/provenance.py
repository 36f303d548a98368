"""What a number was computed with: device, versions, revision, machine and command."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from spd_bench.fused import build
from spd_bench.process.watch import Watch


def device_label(device: torch.device) -> str:
    """A device, its model and the threads that this process may use, as run records have them."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return f"{device} ({machine or platform.machine()}), {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of the packages that compute the numbers."""
    return {name: version(name) for name in ("spd-bench", "torch", "numpy", "scipy", "h5py", "transformers")}


def provenance(device: torch.device, watch: Watch) -> dict[str, str]:
    """Versions, revision, machine and command, as the record of a suite and MLflow have them."""
    return versions() | {
        "git": _git_state(),
        "python": platform.python_version(),
        "device": device_label(device),
        "operators": build.description(),
        "command": command_of(watch),
    }


def command_of(watch: Watch) -> str:
    """The command line that this process works for."""
    return watch.command or " ".join(["spd-bench", *sys.argv[1:]])


def _git_state() -> str:
    """Revision of the checkout that this package runs from, with "+changes" for a dirty one."""
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--abbrev=12"],  # noqa: S607
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "not a checkout"
    return revision.stdout.strip()
