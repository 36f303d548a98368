"""Text of others is cleaned where it is printed: no terminal code, no raw warning, no library's traceback."""

import io
import logging
import subprocess
import sys

from spd_bench.run.display import CleanConsole, Display

HOSTILE = "KeyError: \x1b[31mred\x1b]0;title\x07\r\nfake line\u202e"

SCRIPT = """
import logging, warnings
from spd_bench.run.display import stderr_console
stderr_console()
warnings.warn("over\\nthere \\x1b[31m")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("mlflow.store").exception("it failed \\x1b[31m badly")
logging.getLogger("spd_bench.data").warning("a warning \\x07 of its own")
"""


def test_a_failure_is_one_clean_line() -> None:
    written = io.StringIO()
    with Display(CleanConsole(file=written), 3) as display:
        display.on_job_end("bad seed 0", f"FAILED: {HOSTILE}")
    (line,) = written.getvalue().splitlines()
    assert line.startswith(r"[1/3] bad seed 0: FAILED: KeyError: \x1b[31mred\x1b]0;title\x07 fake line\u202e")
    assert line.isprintable()


def test_a_message_keeps_its_lines_alone() -> None:
    written = io.StringIO()
    CleanConsole(file=written).say(HOSTILE)
    assert written.getvalue() == "KeyError: \\x1b[31mred\\x1b]0;title\\x07\\r\nfake line\\u202e\n"


def test_loggers_and_warnings_are_one_clean_line_each() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True, env={"COLUMNS": "300", "PATH": ""}
    )
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr
    assert "mlflow.store: it failed \\x1b[31m badly" in done.stderr
    assert "Traceback" not in done.stderr
    assert "a warning \\x07 of its own" in done.stderr
    assert "py.warnings:" in done.stderr
    assert logging.getLogger("py.warnings")  # only in the other process are warnings captured
