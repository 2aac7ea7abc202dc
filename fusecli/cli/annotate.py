"""`fusecli annotate`: what is wrong with each pair, as JSON lines for the text-guided teacher."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusecli import registry
from fusecli.cli import messages, options
from fusecli.errors import EXIT_NOTHING_DONE, EXIT_PARTIAL, InputError, Stopped, UsageError, counted
from fusecli.images.atomic import STDOUT, is_device
from fusecli.machine import cores, thread_pool, windowed
from fusecli.stream.stop import Stop, stopping

if TYPE_CHECKING:
    from fusecli.images.pair import Pair
    from fusecli.text.record import Appender, Description

log = logging.getLogger("fusecli")


class Backend(str, Enum):
    measure = "measure"
    openai = "openai"


def annotate(
    context: typer.Context,
    ir: Annotated[str | None, options.side("infrared frames")] = None,
    vis: Annotated[str | None, options.side("visible frames")] = None,
    ct: Annotated[str | None, options.side("CT slices")] = None,
    pet: Annotated[str | None, options.side("PET slices")] = None,
    spect: Annotated[str | None, options.side("SPECT slices")] = None,
    mri: Annotated[str | None, options.side("MRI slices")] = None,
    output: Annotated[Path | None, options.output("JSON-lines file; pairs that it describes are skipped.")] = None,
    backend: Annotated[
        Backend,
        typer.Option(
            case_sensitive=False, help="measure (embedded, exact) or openai (a vision model behind --base-url)."
        ),
    ] = Backend.measure,
    base_url: Annotated[
        str,
        typer.Option(
            help="OpenAI-compatible endpoint: vLLM, Ollama, llama.cpp … Default: http://localhost:8000/v1 of vLLM.",
            envvar="OPENAI_BASE_URL",
            show_default=False,  # which is too long for narrow terminals
        ),
    ] = "http://localhost:8000/v1",
    vlm: Annotated[
        str | None, typer.Option(help="Vision-language model on that endpoint. Default: the only one it serves.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key for the endpoint.", envvar="OPENAI_API_KEY", show_envvar=True)
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for one reply.")] = 120.0,
    retries: Annotated[
        int, typer.Option(min=0, help="Further tries, each after twice the pause of the one before.")
    ] = 3,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", min=1, help="Pairs at once. Default: one per core, 4 for openai."),
    ] = None,
    recursive: options.Recursive = False,
    pair_by: options.PairBy = "stem",
    pairs: options.Pairs = None,
    ignore_unmatched: options.IgnoreUnmatched = False,
    overwrite: Annotated[bool, typer.Option(help="Describe every pair anew.")] = False,
    fail_fast: options.FailFast = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_format: options.LogFormat = "text",
) -> None:
    """Describe the degradations of pairs: events with severity, and a sentence per modality.

    fusecli annotate --ir thermal/ --vis camera/ -o descriptions.jsonl

    Give -o and two sides: --ir and --vis, or --mri and one of --ct, --pet, --spect.

    Ctrl-C and SIGTERM end a run once the pairs under way are described. Run it again to go on.

    Exit codes: 0 all done, 1 every pair failed, 2 refused before any work, 8 some pairs failed.
    """
    messages.set_up(log_format, quiet=quiet, verbose=verbose)
    asked = options.typed(context, "base_url", "vlm", "api_key", "timeout", "retries")
    if asked and backend is not Backend.openai:
        raise UsageError(f"{asked[0]}: of --backend openai; give both")
    task, sides = options.task_of(ir=ir, vis=vis, ct=ct, pet=pet, spect=spect, mri=mri)
    if output is None:
        raise UsageError("name the output: -o descriptions.jsonl")
    if output == STDOUT or is_device(output):  # the output is first read for what it describes; these may have no end
        raise UsageError(f"-o {output}: descriptions are added to a file, one by one; name it")

    from fusecli.images import frames
    from fusecli.images.outputs import check_files
    from fusecli.images.pairing import Pairing, find_pairs
    from fusecli.text.record import Appender

    pairing = Pairing(recursive=recursive, pair_by=pair_by, pairs_csv=pairs, ignore_unmatched=ignore_unmatched)
    found = find_pairs(sides[task.first], sides[task.second], pairing, endings=frames.ENDINGS, sides=task.sides)
    check_files({"-o": output}, (path for pair in found for path in pair.files))
    if backend is Backend.measure:
        describe, source = _measured(task), backend.value
    else:
        describe, source = _asked(task, base_url, vlm, api_key, timeout, retries)

    read = _reader(found, task)
    done = failed = 0
    with Appender(output, anew=overwrite) as records, stopping() as stop:
        if records.repaired:
            log.warning("%s: cut off an unfinished last line", output)
        todo = _undescribed(found, records, task)
        skipped = len(found) - len(todo)
        hidden = messages.without_bars(quiet, log_format)
        count = workers or (4 if backend is Backend.openai else cores())
        for pair, described in _each(lambda pair: describe(*read(pair), pair.name), todo, count, hidden, stop):
            if isinstance(described, InputError):
                failed += 1
                log.error("%s: %s", pair.name, described)
                if fail_fast:
                    break
                continue
            records.write(described.record(pair.name, pair.first.as_posix(), pair.second.as_posix(), source))
            done += 1
    counts = {"described": done, "failed": failed, "already there": skipped}
    told = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    log.info("%s: %s", output, told or "nothing described")
    if stop.signal and done + failed < len(todo):
        command = "the same command without --overwrite" if overwrite and done else "the same command"
        raise Stopped(f"stopped by {stop.signal.name}: {command} goes on from there", stop.signal)
    if failed:
        raise typer.Exit(EXIT_PARTIAL if done or skipped else EXIT_NOTHING_DONE)


def _undescribed(found: list[Pair], records: Appender, task: registry.Task) -> list[Pair]:
    """The pairs that the file does not describe; warns where its entries may mean other files of the same names.

    Raises UsageError where it describes pairs of another task.
    """
    foreign = next((item for item, _ in records.done.values() if item.sides != task.sides), None)
    if foreign is not None:
        known = " + ".join(foreign.sides)
        raise UsageError(f"{records.path} describes {known} pairs; name another file, or --overwrite it")
    made_of = [(pair.first, records.done[pair.name][1]) for pair in found if pair.name in records.done]
    others = [f"{path} ({known} there)" for path, known in made_of if known and not _alike(path, Path(known))]
    if others:
        log.warning(
            "%s: holds other files of the names of %s, which are left out, as %s; give each folder its own file",
            records.path,
            counted(len(others), "pair"),
            others[0],
        )
    return [pair for pair in found if pair.name not in records.done]


def _alike(path: Path, other: Path) -> bool:
    """Whether two paths may name one file, seen from different folders: their last three parts agree."""
    ends = zip(path.parts[:-4:-1], other.parts[:-4:-1], strict=False)
    return all(a == b for a, b in ends)


def _measured(task: registry.Task) -> Callable[[Any, Any, str], Description]:
    from fusecli.images.colour import luma
    from fusecli.images.opencv import cv2
    from fusecli.text.describe import describe

    cv2.setNumThreads(1)  # pairs are worked on in parallel already
    return lambda first, second, name: describe(luma(first), luma(second), task.sides, name)


def _asked(
    task: registry.Task, base_url: str, vlm: str | None, api_key: str | None, timeout: float, retries: int
) -> tuple[Callable[[Any, Any, str], Description], str]:
    """A function that asks a model about two images and the pair's name, and the source that the records state."""
    from fusecli.text import vlm as client

    endpoint = client.Endpoint(base_url, vlm, api_key, timeout, retries)
    if vlm is None:
        offered = endpoint.models()
        if len(offered) != 1:
            raise UsageError(f"{base_url} serves {', '.join(offered) or 'no model that it names'}; choose one by --vlm")
        endpoint = replace(endpoint, model=offered[0])

    def describe(first: Any, second: Any, name: str) -> Description:
        return client.describe(endpoint, (first, second), task.sides, name)

    return describe, f"openai:{endpoint.model}"


def _reader(pairs: list[Pair], task: registry.Task) -> Callable[[Pair], tuple[Any, Any]]:
    """A function that reads the first pages of a pair, with the intensity ranges that `fuse` uses."""
    from fusecli.images import frames, intensity

    firsts, seconds = [pair.first for pair in pairs], [pair.second for pair in pairs]
    first, second = intensity.pair_ranges(firsts, seconds, infrared=task.second == "ir")
    return lambda pair: (
        frames.read(pair.first, intensity=first, pages=[0])[0].pixels,
        frames.read(pair.second, intensity=second, pages=[0])[0].pixels,
    )


def _each(
    work: Callable[[Pair], Description], pairs: list[Pair], workers: int, hidden: bool, stop: Stop
) -> Iterator[tuple[Pair, Description | InputError]]:
    """Each pair with its description or its failure, in the order of ``pairs``; a few more are under way.

    Once ``stop`` is set no more are begun.
    """
    from fusecli.progress import tqdm

    def attempt(pair: Pair) -> tuple[Pair, Description | InputError] | None:
        if stop.is_set():
            return None
        try:
            return pair, work(pair)
        except InputError as error:
            return pair, error

    with (
        thread_pool(workers) as pool,
        tqdm(total=len(pairs), unit="pair", disable=hidden, file=sys.stderr) as bar,
    ):
        begun = takewhile(lambda _: not stop.is_set(), pairs)
        for described in windowed(begun, lambda pair: pool.submit(attempt, pair), 2 * workers):
            yield described
            bar.update()
