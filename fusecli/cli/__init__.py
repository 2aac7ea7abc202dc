"""The command line: a file per subcommand, and parts of `fuse`. Heavy imports happen inside command bodies only."""

from __future__ import annotations

import errno
import logging
import sys

import typer

from fusecli import __version__
from fusecli.cli import align, annotate, benchmark, distill, export, fuse, models, options, train_teacher
from fusecli.errors import EXIT_NOTHING_DONE, EXIT_USAGE, FusecliError
from fusecli.images.listing import folders_of
from fusecli.machine import too_large_to_load
from fusecli.stream.stop import Ended

app = typer.Typer(
    name="fusecli",
    cls=options.Group,
    help=(
        "Fuse two registered images of one scene into one: infrared + visible frames, "
        "CT / PET / SPECT + MRI slices and volumes."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("fuse", cls=fuse.Fuse)(fuse.fuse)
app.command("align", cls=options.Command)(align.align)
app.command("models", cls=options.Command)(models.models)
app.command("export", cls=options.Command)(export.export)
app.command("annotate", cls=options.Command)(annotate.annotate)
app.command("train-teacher", cls=options.Command)(train_teacher.train_teacher)
app.command("distill", cls=options.Command)(distill.distill)
app.add_typer(benchmark.app, name="benchmark")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fusecli {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Options before the subcommand."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; errors meant for the user are one line on stderr."""
    log = logging.getLogger("fusecli")
    log.handlers.clear()  # an earlier run in this process may have left them, its level, and what folders it found
    log.setLevel(logging.NOTSET)
    folders_of.cache_clear()
    try:
        code = _exit_code(argv)
        try:
            sys.stdout.flush()  # which fails where the disk is full
        except OSError as error:
            if not code or isinstance(error, BrokenPipeError):
                raise  # else it was reported: from Python 3.13 on flush() retries what could not be written
        return code
    except Ended as stop:
        _tell(f"stopped by {stop.signal.name}")
        return 128 + stop.signal
    except BrokenPipeError:  # a reader that has seen enough, such as head
        return 141  # as of a program that SIGPIPE ended
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        _tell("no more threads may be started here (ulimit -u, or the container's limit of processes)")
        return EXIT_NOTHING_DONE
    except ImportError as error:
        if not too_large_to_load(error):
            raise
        _tell(f"out of memory, for the libraries alone ({error}); ulimit -v shows how much a process may use")
        return EXIT_NOTHING_DONE
    except (FusecliError, OSError, MemoryError) as error:
        if log.isEnabledFor(logging.DEBUG):
            log.exception("failed")
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # a name as typed; others fail their pair
            _tell(f"{error.filename}: longer than a file's name can be")
            return EXIT_USAGE
        _tell(f"out of memory ({error})" if isinstance(error, MemoryError) else str(error))
        return error.exit_code if isinstance(error, FusecliError) else EXIT_NOTHING_DONE


def _tell(message: str) -> None:
    """A last line on stderr, in the format of the others."""
    log = logging.getLogger("fusecli")
    if log.handlers:
        log.error("%s", message)
    else:  # no command has set up logging yet
        print(f"fusecli: {message}", file=sys.stderr)


def _exit_code(argv: list[str] | None) -> int:
    try:
        # Patterns are read by us: expanded on Windows, where no shell does it, one would become words without option.
        return app(argv, prog_name="fusecli", standalone_mode=True, windows_expand_args=False) or 0
    except Ended:
        raise
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # typer and rich turn it into a SystemExit
            raise stop.__context__ from None
        return stop.code if isinstance(stop.code, int) else EXIT_NOTHING_DONE
