"""Messages on stderr, as lines of text or as JSON."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from fusecli.errors import UsageError


def set_up(log_format: str = "text", *, quiet: bool = False, verbose: bool = False) -> None:
    """Messages to stderr. Raises UsageError for a format other than text and json."""
    if log_format not in ("text", "json"):
        raise UsageError(f"--log-format {log_format}: choose text or json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if log_format == "json" else _TextLines("fusecli: %(message)s"))
    logger = logging.getLogger("fusecli")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO)


class _TextLines(logging.Formatter):
    """Lines of text; control characters, such as in a stranger's file name, are escaped: a terminal would obey them."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda character: ascii(character[0])[1:-1], line)


class _JsonLines(logging.Formatter):
    """One JSON object per message, for log collectors; in ASCII, so that it is JSON whatever stderr's encoding is."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"time": self.formatTime(record), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


@contextmanager
def libraries_silenced() -> Iterator[None]:
    """Discard what C libraries write to file descriptor 2, as libpng does for damaged files; sys.stderr still works.

    For the whole command and not per file, since the process has one such descriptor, and several threads read files.
    """
    before = sys.stderr
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    ours = _descriptor(before) == 2  # no substitute, such as pytest's
    encoding, errors = (before.encoding, before.errors) if ours else (None, None)
    with open(kept, "w", buffering=1, encoding=encoding, errors=errors) as stream:
        if ours:
            before.flush()
            sys.stderr = stream
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            sys.stderr = before
            for handler in logging.getLogger("fusecli").handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                    handler.setStream(before)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # in memory, closed, or a program's own
        return None


def without_bars(quiet: bool, log_format: str = "text") -> bool:
    """Whether progress bars are hidden: where they are not wanted, nobody sees them, or stderr holds JSON lines."""
    return quiet or log_format == "json" or not is_terminal(sys.stderr)


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at it. A program that runs fusecli may have put there what has no more than write."""
    return hasattr(stream, "isatty") and stream.isatty()
