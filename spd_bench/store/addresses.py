"""Addresses of databases: SQLite files whatever their path holds, and addresses without their password."""

import re
from pathlib import Path

_PLAIN = re.compile(r"[\w./:~-]+", re.ASCII)
"""Paths that mean the same as text in an address and as a path."""
_SQLITE = re.compile(r"sqlite(\+\w+)?:///")


def sqlite_address(path: Path) -> str:
    """The SQLAlchemy address of a SQLite file; characters with a meaning in addresses, such as % ? #, are encoded."""
    absolute = path.absolute().as_posix()
    if _PLAIN.fullmatch(absolute):
        return f"sqlite:///{absolute}"
    from sqlalchemy.engine import URL

    # The driver is named because MLflow makes the parent folder of "sqlite:///..." from the encoded text.
    return URL.create("sqlite+pysqlite", database=absolute).render_as_string()


def is_sqlite(address: str) -> bool:
    """Whether an address is that of a SQLite file."""
    return _SQLITE.match(address) is not None


def sqlite_path(address: str) -> Path:
    """The file that a SQLite address names."""
    from sqlalchemy.engine import make_url

    return Path(make_url(address).database or "")


def without_password(text: str) -> str:
    """The text with "…" for the user and password of every address in it."""
    return re.sub(r"//[^/\s]*@", "//…@", text)
