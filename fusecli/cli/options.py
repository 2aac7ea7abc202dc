"""Options that several commands share, so that each is spelled and explained once."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
import typer.core

from fusecli import registry
from fusecli.cli import messages
from fusecli.errors import UsageError

SHOWN = 3  # words that a message cites
_SIDES = dict.fromkeys(f"--{side}" for task in registry.TASKS.values() for side in task.sides)
SINGLE = (*_SIDES, "--pairs", "--pair-by", "--series", "--volume")  # of which a user may expect that several add up
MISUSE: type[Exception] = typer.BadParameter.__mro__[1]  # UsageError of whichever copy of click typer uses


def path(typed: str) -> Path:
    """The path. ~ is the home folder in ``-o=~/fused``, too, where shells leave it as it is.

    - alone stands for a stream, and ./- for the file of that name, which Path would also spell -. An empty value, as
    from a shell variable that is not set, raises BadParameter: Path takes it for this folder.
    """
    if not typed:
        raise typer.BadParameter("it names nothing")
    spelled = Path(os.path.expanduser(typed))
    return spelled.absolute() if str(spelled) == "-" != typed else spelled


def side(held: str) -> Any:
    """An option that names a side's input, with what it holds."""
    return typer.Option(help=f"Folder, file or glob of {held}.")


def place(text: str, *names: str) -> Any:
    """An option that names a file or folder, with its help text."""
    return typer.Option(*names, parser=path, metavar="<path>", help=text)


DataRoot = Annotated[Path | None, place("Folder of the data sets, <root>/<set>/<side>/. Default: $FUSECLI_DATA.")]
Device = Annotated[
    str, typer.Option("--device", "-d", help="Where networks run: auto (cuda, else cpu), cpu, cuda, cuda:N or mps.")
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace a value of the recipe: --set steps=200 --set model.width=16."
    ),
]
Look = Annotated[
    str | None,
    typer.Option(help="Infrared-visible: thermal (0), natural (1) or a number between. Default: the model's."),
]
DrawWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers", "-j", help="Processes that draw batches. Default: with CUDA one per core, else none.", min=0
    ),
]
Model = Annotated[
    str,
    typer.Option(
        *("--model", "-m"),
        parser=os.path.expanduser,
        metavar="<str>",
        help="Released model (see `fusecli models`) or a weight file.",
    ),
]
Precision = Annotated[
    str, typer.Option(help="What networks compute in: auto (bf16 or fp16 where faster), fp32, bf16 or fp16.")
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Sub-folders too.")]
PairBy = Annotated[
    str,
    typer.Option(
        help="stem (names equal but for their endings; in globs, folders that wildcards match must agree, too), or a "
        "pattern per side as 'ir=*_IR,vis=*_RGB' (?: any character)."
    ),
]
Pairs = Annotated[Path | None, place("CSV of explicit pairs: a column per side, and name (optional); - for stdin.")]
IgnoreUnmatched = Annotated[
    bool,
    typer.Option("--ignore-unmatched", help="Warn of files without a partner and go on. Default: they are an error."),
]
Range = Annotated[
    str,
    typer.Option(
        "--range",
        help="Infrared intensity: auto (percentiles of the sequence), frame (of each), full (all that the files' type "
        "holds) or LO,HI (of black-hot infrared HI,LO).",
    ),
]
FailFast = Annotated[bool, typer.Option(help="Stop at the first pair that fails.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More messages, and tracebacks.")]
LogFormat = Annotated[str, typer.Option(help="text or json (messages on stderr).")]


class _Help:
    """A --help for narrow terminals: paragraphs are wrapped to fit, and negated switches are not listed.

    Those, such as --no-overwrite, still work. panels: heading -> names of the parameters below it.
    """

    panels: ClassVar[Mapping[str, Sequence[str]]] = {}

    def format_help(self, ctx: Any, formatter: Any) -> None:
        shown: Any = copy(self)
        shown.help = re.sub(r"(?<=\S)\n(?=\S)", " ", shown.help or "")
        shown.params = [copy(param) for param in shown.params]
        heading = {name: panel for panel, names in self.panels.items() for name in names}
        for param in shown.params:
            param.secondary_opts = []
            param.rich_help_panel = heading.get(param.name, param.rich_help_panel)
        super(_Help, shown).format_help(ctx, formatter)  # type: ignore[misc]


class Group(_Help, typer.core.TyperGroup):
    """A command with subcommands; of an option typed before any it says which subcommand takes it."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        try:
            typed = list(args)
            left = super().parse_args(ctx, args)
            _tell_repeated(ctx, typed)
            return left
        except MISUSE as error:
            option = getattr(error, "option_name", None)
            takers = (name for name, command in self.commands.items() if any(option in p.opts for p in command.params))
            if taker := next(takers, None):
                raise UsageError(f"{option} comes after a command: {ctx.command_path} {taker} {option} …") from error
            raise

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        if ctx.parent is not None:  # the outermost one has yet to parse its command, of which help may be wanted
            _check_current_folder()
        return super().invoke(ctx)


class Command(_Help, typer.core.TyperCommand):
    """A command that takes options only; for words left over it names the likely cause, a pattern without quotes.

    With ``--log-format json`` nothing but its own messages, and Python's, come to stderr. While a shell completes
    words (resilient parsing) nothing does.
    """

    allow_extra_args = True

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        _check_current_folder()
        with messages.libraries_silenced() if ctx.params.get("log_format") == "json" else nullcontext():
            return super().invoke(ctx)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        typed = list(args)
        try:
            left = super().parse_args(ctx, args)
        except MISUSE as error:
            if not re.search("--log-format[ =]json", " ".join(typed)):
                raise
            messages.set_up("json")
            raise UsageError(error.format_message()) from error  # type: ignore[attr-defined]
        if left and not ctx.resilient_parsing:
            words = " ".join(left[:SHOWN]) + (" …" if len(left) > SHOWN else "")
            expanded = all(Path(word).is_file() for word in left)
            hint = "; where the shell has expanded a pattern, quote it: --ir 'thermal/*.png'" if expanded else ""
            raise UsageError(f"{words}: belongs to no option{hint}; see --help")
        _tell_repeated(ctx, typed)
        return left


def _check_current_folder() -> None:
    """Raises UsageError where it was removed: in it MKL ends the process, with words that do not help."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UsageError("the current folder was removed; change to one that exists") from error


def _tell_repeated(ctx: typer.Context, typed: Sequence[str]) -> None:
    """Warn where an option of SINGLE is typed more than once."""
    times = Counter(word.partition("=")[0] for word in typed)
    own = {option for param in ctx.command.params for option in param.opts}  # groups see those of their commands, too
    repeated = [option for option in SINGLE if times[option] > 1 and option in own]
    if not repeated or ctx.resilient_parsing:
        return
    given = ctx.params
    messages.set_up(given.get("log_format", "text"), quiet=given.get("quiet", False))
    for option in repeated:
        logging.getLogger("fusecli").warning("%s: given %d times; only the last one counts", option, times[option])


def output(text: str) -> Any:
    """``-o`` with its help text. An empty value, as from a shell variable that is not set, raises UsageError."""

    def parse(typed: str) -> Path:
        if not typed:
            raise UsageError("-o: names nothing; write -o . for this folder")
        return path(typed)

    return typer.Option("--output", "-o", parser=parse, metavar="<path>", help=text)


def typed(context: typer.Context, *names: str) -> list[str]:
    """Those of the parameters that stand on the command line, as options; without names, of all."""
    sources = ((param, context.get_parameter_source(param.name or "")) for param in context.command.params)
    given = [param for param, source in sources if source and source.name == "COMMANDLINE"]
    return [param.opts[0] for param in given if not names or param.name in names]


def task_of(**given: str | None) -> tuple[registry.Task, dict[str, str]]:
    """The task and its two inputs by side. Raises UsageError unless exactly one pair of modalities is given."""
    sides = {side: os.path.expanduser(value) for side, value in given.items() if value is not None}  # see `path`
    task = registry.task_of(set(sides))
    if task is None:
        valid = ", ".join(f"--{task.first} with --{task.second}" for task in registry.TASKS.values())
        raise UsageError(f"give exactly one pair of modalities: {valid}")
    return task, sides


def look_of(text: str | None) -> float | None:
    """The number that ``--look`` names. Raises UsageError for one outside of [0, 1] and for other words."""
    if text is None or text.lower() in registry.LOOKS:
        return registry.LOOKS.get((text or "").lower())
    try:
        look = float(text)
    except ValueError:
        look = -1.0
    if not 0 <= look <= 1:
        raise UsageError(f"--look {text}: write {', '.join(registry.LOOKS)} or a number from 0 to 1")
    return look


def sleep_when_waiting() -> None:
    """Let torch's threads sleep, not spin, while they wait for one another. Call it before torch is imported.

    On a shared machine, spinning makes work take ten times as long; in training on a GPU, it takes the cores that draw
    batches.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
