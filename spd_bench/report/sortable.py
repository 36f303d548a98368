"""Tables that sort on click: attributes for the vendored script, and the script with its hash for the page's policy."""

import base64
import hashlib
import re
from importlib import resources

SCRIPT = "sortable.auto.min.js"
_NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
_CELL = re.compile(r"<td((?: [^<>]*)?)>((?:(?!</?td).)*?)</td>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")


def script() -> str:
    """The script as published, to be embedded whole."""
    return (resources.files(__package__) / "vendor" / SCRIPT).read_text(encoding="utf-8")


def script_hash(text: str) -> str:
    """The hash by which a content security policy allows exactly this script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def sortable(tables_html: str) -> str:
    """The same HTML with tables that sort: by the number that a cell begins with; cells without one stay last."""
    marked = _CELL.sub(lambda cell: f'<td{cell[1]} data-sort="{_key(cell[2])}">{cell[2]}</td>', tables_html)
    return marked.replace("<table>", '<table class="sortable n-last asc">')


def _key(content: str) -> str:
    """What a cell sorts by: its leading number, or its text where no number leads; nothing for a dash or a blank."""
    text = _TAG.sub("", content).strip().lstrip("*").strip()
    if found := _NUMBER.match(text):
        return found[0].replace("−", "-").lstrip("+")
    return "" if text in ("", "–", "-") else text.replace('"', "&quot;")
