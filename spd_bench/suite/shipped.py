"""The suite files that come with this distribution."""

import re
from pathlib import Path


def shipped_files() -> list[Path]:
    """Every suite and sweep that is shipped, sorted."""
    package = Path(__file__).parents[1]
    folder = package / "suites"  # in a wheel; in a checkout the folder is beside the package
    found = folder if folder.is_dir() else package.parent / "suites"
    return sorted(found.glob("*.yaml"))


def is_shipped(place: str) -> bool:
    """Whether a place, "file:line:column", lies in a shipped file."""
    match = re.fullmatch(r"(.+):\d+:\d+", place, re.DOTALL)
    if match is None or "\0" in place:
        return False
    path = Path(match[1])
    return path.name in {file.name for file in shipped_files()} and path.resolve() in {
        file.resolve() for file in shipped_files()
    }
