"""The streams of the commands: what every `main` does first, however it is started."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def use_utf8() -> None:
    """Files and pipes get UTF-8, whatever the locale says; on a terminal what it cannot show is written as \\u…."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, TextIOWrapper):  # replaced by a caller
            continue
        if stream.isatty():
            stream.reconfigure(errors="backslashreplace")
        else:
            stream.reconfigure(encoding="utf-8")
