"""The released checkpoints of Depth Anything V2, and the places on this machine where they are searched.

Each size was released twice: `relative` (inverse depth up to scale and shift) and `metric_indoor` (metres, trained
by the authors on synthetic rooms, Hypersim). Both have the same names and shapes; only their bytes differ.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spd_bench.errors import DataError
from spd_components.encoders.dav2_sizes import SIZES, DAv2Size

Release = Literal["relative", "metric_indoor"]

VARIABLE = "DAV2_WEIGHTS"
"""Environment variable for the relative release: its file, or a folder that may hold every release and size."""
METRIC_VARIABLE = "DAV2_METRIC_WEIGHTS"
"""Environment variable for the metric indoor release: its file or folder."""
HUGGING_FACE_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class _Naming:
    title: str
    file: str
    repository: str
    variable: str


_NAMING: Mapping[Release, _Naming] = {
    "relative": _Naming(
        title="relative",
        file="depth_anything_v2_vit{letter}.pth",
        repository="Depth-Anything-V2-{name}",
        variable=VARIABLE,
    ),
    "metric_indoor": _Naming(
        title="metric indoor",
        file="depth_anything_v2_metric_hypersim_vit{letter}.pth",
        repository="Depth-Anything-V2-Metric-Hypersim-{name}",
        variable=METRIC_VARIABLE,
    ),
}


@dataclass(frozen=True)
class ReleasedFile:
    """One released checkpoint."""

    size: DAv2Size
    """Size of the model."""
    release: Release
    """Which of its two releases."""

    @property
    def name(self) -> str:
        """Its file name, as published."""
        return _NAMING[self.release].file.format(letter=self.size.name[0].lower())

    @property
    def kind(self) -> str:
        """Description without the size."""
        return f"{_NAMING[self.release].title} checkpoint"

    @property
    def title(self) -> str:
        """Description with the size."""
        return f"{self.kind} of Depth Anything V2 {self.size.name}"

    @property
    def variable(self) -> str:
        """The environment variable that points at it."""
        return _NAMING[self.release].variable

    @property
    def how_to_get(self) -> str:
        """Where to download it, and how to configure its path."""
        repository = _NAMING[self.release].repository.format(name=self.size.name)
        return (
            f"download {self.name} of the public release {repository} and put it into the folder that {VARIABLE} "
            f"names, or set {self.variable}=/path/to/{self.name}, or give the option weights"
        )


RELEASED_FILES: Mapping[str, ReleasedFile] = {
    file.name: file for release in _NAMING for size in SIZES for file in [ReleasedFile(size, release)]
}
"""Every released checkpoint by its file name."""
SHA256: Mapping[str, ReleasedFile] = {
    "715fade13be8f229f8a70cc02066f656f2423a59effd0579197bbf57860e1378": RELEASED_FILES["depth_anything_v2_vits.pth"],
    "b782898d8a3e8be1f639de33837ed85e9b4b73e40f8f5e5cd99067588d722545": RELEASED_FILES[
        "depth_anything_v2_metric_hypersim_vits.pth"
    ],
}
"""SHA-256 → checkpoint, for those whose digest is known."""


def find_weights(config: Any, size: DAv2Size) -> Path:
    """The file of weights for an encoder's options: option weights, release's variable, or folder DAV2_WEIGHTS.

    Raises DataError, with how to get it, if there is none.
    """
    if config.repo is not None:
        return _from_hub(config.repo, str(config.revision), download=config.hub)
    wanted = ReleasedFile(size, config.release)
    given = config.weights or os.environ.get(wanted.variable)
    if given:
        path = Path(given).expanduser()
        return _in_folder(path, wanted) if path.is_dir() else _named(path, wanted)
    shared = os.environ.get(VARIABLE)
    if shared and (file := Path(shared).expanduser() / wanted.name).is_file():
        return file
    raise DataError(
        f"the weights of Depth Anything V2 {size.name} are needed: the {wanted.kind} is missing, {wanted.name}",
        hint=wanted.how_to_get,
    )


def _named(path: Path, wanted: ReleasedFile) -> Path:
    if not path.is_file():
        raise DataError(f"no such file; it should be the {wanted.title}", where=str(path), hint=wanted.how_to_get)
    if path.name in RELEASED_FILES and path.name != wanted.name:
        raise DataError(
            f"is the {RELEASED_FILES[path.name].title}, expected the {wanted.title}, {wanted.name}",
            where=str(path),
            hint=wanted.how_to_get,
        )
    return path


def _in_folder(folder: Path, wanted: ReleasedFile) -> Path:
    held = [folder / name for name in (wanted.name, HUGGING_FACE_FILE) if (folder / name).is_file()]
    if len(held) != 1:
        raise DataError(
            f"expected {wanted.name} or {HUGGING_FACE_FILE} in this folder, found {'both' if held else 'neither'}",
            where=str(folder),
            hint="give the file itself" if held else wanted.how_to_get,
        )
    return held[0]


def _from_hub(repo: str, revision: str, *, download: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repo, HUGGING_FACE_FILE, revision=revision, local_files_only=not download))
    except (OSError, ValueError, HfHubHTTPError) as error:
        place = "could not be downloaded" if download else "is not in the local Hugging Face cache"
        raise DataError(
            f"{HUGGING_FACE_FILE} at revision {revision} {place} ({type(error).__name__})",
            where=repo,
            hint="check the repository and the network" if download else "set hub: true to download it",
        ) from error
