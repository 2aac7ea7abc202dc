"""``python -m fusecli`` and the ``fusecli`` script."""

import gc
import io
import os
import sys

from fusecli.stream.stop import unwind_when_stopped


def run() -> None:
    """Run the command line, then exit without Python's clean-up, which with torch takes as long as twenty pairs."""
    unwind_when_stopped()
    gc.set_threshold(500_000, 20, 100)  # start-up makes hundreds of thousands of objects, and no garbage
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller: else a result's file would get its descriptor
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a Windows code page, say, lacks our × or …
    from fusecli.cli import main  # which takes a moment, in which a signal is heard by now

    code = main()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
