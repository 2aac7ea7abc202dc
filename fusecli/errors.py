"""The errors that a user sees: each names the file, what was wrong and what to do."""

from collections.abc import Sequence

EXIT_NOTHING_DONE = 1
EXIT_USAGE = 2
EXIT_PARTIAL = 8

LISTED = 10  # lines of a list in a message before it only counts


def counted(count: int, noun: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def itemized(items: Sequence[object]) -> str:
    """Items for the end of a message, a line each, the first LISTED of them; then how many more there are."""
    more = f"\n  … and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return "".join(f"\n  {item}" for item in items[:LISTED]) + more


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class FusecliError(Exception):
    """Something the user can mend; printed without a traceback unless ``-v``."""

    exit_code = EXIT_NOTHING_DONE


class UsageError(FusecliError):
    """The command line, or the folders it names, make no sense; found before any work starts."""

    exit_code = EXIT_USAGE


class OutputError(FusecliError):
    """One result cannot be written; costs its pair. ``full``: the disk is full, so that the next one would fail too."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class Stopped(FusecliError):
    """Ended by a signal, with all that is needed to go on."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number  # as of a program that the signal ended


class InputError(FusecliError):
    """One input file cannot be read or used; costs its pair, not the run."""
