"""`fusecli benchmark`: methods side by side on data sets or folders; `fusecli benchmark compare`: what moved."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from fusecli import registry
from fusecli.cli import messages, options
from fusecli.errors import EXIT_NOTHING_DONE, UsageError
from fusecli.machine import cores

if TYPE_CHECKING:
    from rich.console import Console

    from fusecli.benchmark.datasets import PairSet
    from fusecli.benchmark.methods import Method
    from fusecli.benchmark.results import Report

log = logging.getLogger("fusecli")


class Benchmark(options.Group):
    """The command, with its many options under headings."""

    panels: ClassVar = {
        "Data sets": ("dataset", "data_root", "split", "include_seen"),
        "Own pairs": ("ir", "vis", "ct", "pet", "spect", "mri", "recursive", "pair_by", "pairs", "ignore_unmatched"),
        "Methods": ("methods", "teacher", "fused", "look", "range_"),
        "Damaged sources": ("degraded", "draws", "save_degraded"),
        "Results": (
            *("metrics", "protocol", "csv", "json_file", "latex", "markdown", "html", "no_html", "cases"),
            *("fail_below", "quiet"),
        ),
        "Machines": ("device", "precision", "workers", "no_speed", "no_cache"),
    }


app = typer.Typer(cls=Benchmark, context_settings={"help_option_names": ["-h", "--help"]})


def _listed(given: Any) -> list[str]:  # not list[str], which in Python 3.10 Typer takes for a class, and fails
    """The names that an option gives, be it repeated or with commas."""
    return [name for part in given for word in part.split(",") if (name := word.strip())]


FailBelow = Annotated[
    list[str],
    typer.Option(
        "--fail-below",
        metavar="METRIC=VALUE",
        help="Exit 1 if a mean is worse than VALUE (above it where lower is better). Classical rules only if named.",
    ),
]


@app.callback(invoke_without_command=True)
def benchmark(
    context: typer.Context,
    dataset: Annotated[
        list[str],
        typer.Option(
            "--dataset",
            callback=_listed,
            help=f"{', '.join(registry.DATASETS)}; harvard: the last three. For several repeat it or use commas.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    data_root: options.DataRoot = None,
    split: Annotated[str, typer.Option(help="all, or an agreed list of names such as test (roadscene, vifb).")] = "all",
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Keep pairs that the weights were trained or tuned on.")
    ] = False,
    ir: Annotated[str | None, options.side("infrared frames")] = None,
    vis: Annotated[str | None, options.side("visible frames")] = None,
    ct: Annotated[str | None, options.side("CT slices")] = None,
    pet: Annotated[str | None, options.side("PET slices")] = None,
    spect: Annotated[str | None, options.side("SPECT slices")] = None,
    mri: Annotated[str | None, options.side("MRI slices")] = None,
    recursive: options.Recursive = False,
    pair_by: options.PairBy = "stem",
    pairs: options.Pairs = None,
    ignore_unmatched: options.IgnoreUnmatched = False,
    range_: options.Range = "auto",
    methods: Annotated[
        list[str],
        typer.Option(
            "--methods",
            "-m",
            callback=_listed,
            help="Released models, weight files (NAME=FILE), classical rules such as average; or all, released, "
            "classical, none. Several as for --dataset.",
        ),
    ] = ["all"],  # noqa: B006
    teacher: Annotated[Path | None, options.place("Checkpoint of a teacher to compare with.")] = None,
    look: options.Look = None,
    degraded: Annotated[
        bool, typer.Option("--degraded", help="Damage the inputs (noise, blur, haze, …); compare with the clean ones.")
    ] = False,
    draws: Annotated[
        int,
        typer.Option(min=1, help="With --degraded: damage each pair in so many ways. Few pairs need more."),
    ] = 1,
    save_degraded: Annotated[
        Path | None,
        options.place(
            "With --degraded: write the damaged inputs there for other methods, as gray PNG in <data set>/<side>/. "
            "Of further draws --draws makes draw2/ … in it; results for --fused lie in such folders, too."
        ),
    ] = None,
    fused: Annotated[
        list[str],
        typer.Option(
            "--fused",
            metavar="NAME=DIR",
            help="Results of any other method, named as the pairs are or by DIR/*_fused.png; repeat for several.",
        ),
    ] = [],  # noqa: B006
    protocol: Annotated[str, typer.Option(help=f"What metric names mean: {', '.join(registry.METRICS)}.")] = "tang",
    metrics: Annotated[
        list[str], typer.Option("--metrics", callback=_listed, help="What to measure, such as VIF,Qabf; or all.")
    ] = [],  # noqa: B006
    csv: Annotated[Path | None, options.place("Write every value, a row each.")] = None,
    json_file: Annotated[Path | None, options.place("Write the report as JSON; - for stdout.", "--json")] = None,
    latex: Annotated[Path | None, options.place("Write tables of means for LaTeX.")] = None,
    markdown: Annotated[Path | None, options.place("Write tables for Markdown.")] = None,
    html: Annotated[Path, options.place("Write the page: tables, charts, images.")] = Path("benchmark.html"),
    no_html: Annotated[bool, typer.Option("--no-html", help="Do not write the page.")] = False,
    cases: Annotated[int, typer.Option(min=0, help="Worst and best pairs per data set on the page, each.")] = 3,
    fail_below: FailBelow = [],  # noqa: B006
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    workers: Annotated[int, typer.Option("--workers", "-j", min=0, help="Pairs at once; 0: one per core.")] = 0,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="Do not measure times and memory.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Measure everything anew.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure fusion methods on data sets or on your own pairs, and report them side by side.

    Tables go to stdout, a page with charts and images to benchmark.html. Values are kept in $FUSECLI_CACHE or
    ~/.cache/fusecli, so a second run is instant. `benchmark compare A.json B.json` shows what moved between two runs.
    """
    if context.invoked_subcommand:
        if given := options.typed(context):
            command = f"benchmark {context.invoked_subcommand}"
            raise UsageError(f"{given[0]}: of `benchmark` alone; `{command}` takes its own options, after it")
        return
    messages.set_up(quiet=quiet)
    folders = {"vis": vis, "ir": ir, "ct": ct, "pet": pet, "spect": spect, "mri": mri}
    own = options.task_of(**folders) if set(folders.values()) != {None} else None
    if not dataset and own is None:
        raise UsageError(
            f"nothing to measure on: --dataset ({', '.join(registry.DATASETS)}) or two folders, --vis DIR --ir DIR"
        )
    if no_html and (given := options.typed(context, "html", "cases")):
        raise UsageError(f"{given[0]}: of the page, which --no-html leaves out; give one of them")
    of_sets = {f"--split {split}": split != "all", f"--data-root {data_root}": data_root is not None}
    of_own = {
        f"--pairs {pairs}": pairs is not None,
        f"--pair-by {pair_by}": pair_by != "stem",
        "--recursive": recursive,
        "--ignore-unmatched": ignore_unmatched,
    }
    of_degraded = {f"--save-degraded {save_degraded}": save_degraded is not None, f"--draws {draws}": draws > 1}
    for needed, dependent, advice in (
        (dataset, of_sets, "of a --dataset; own pairs have none"),
        (own, of_own, "of own pairs; name their folders, too, as --vis DIR --ir DIR"),
        (degraded, of_degraded, "of --degraded; give both"),
    ):
        if not needed and (ignored := [option for option, is_given in dependent.items() if is_given]):
            raise UsageError(f"{ignored[0]}: {advice}")
    names = _metric_names(metrics, protocol)
    results = _fused_folders(fused)

    options.sleep_when_waiting()  # as fuse does: spinning threads made a busy machine's times fifty times as long
    from fusecli.benchmark import compare, datasets, run
    from fusecli.benchmark import methods as kinds
    from fusecli.benchmark.cache import Cache
    from fusecli.images.atomic import STDOUT
    from fusecli.images.outputs import check_files
    from fusecli.images.pairing import Pairing

    gates = compare.gates(fail_below, protocol, names)
    sets = [datasets.load(name, data_root, split) for name in datasets.expand(dataset)]
    if own is not None:
        pairing = Pairing(recursive=recursive, pair_by=pair_by, pairs_csv=pairs, ignore_unmatched=ignore_unmatched)
        sets.append(datasets.from_folders(*own, pairing))
        if sets[-1].name in [found.name for found in sets[:-1]]:
            sets[-1].name += " (own)"
    if range_ != "auto" and any(found.task.second != "ir" for found in sets):
        raise UsageError("--range is for infrared")
    count = workers or cores()
    jobs = []
    for found in sets:
        chosen = kinds.choose(methods, found.task.name, device, precision, options.look_of(look), teacher)
        _add_results(chosen, results)
        _leave_out_seen(found, chosen, include_seen)
        jobs.append(run.prepare(found, chosen, count, draws if degraded else 0, range_))
    page_file = None if no_html else html
    named = {"--csv": csv, "--json": json_file, "--latex": latex, "--markdown": markdown, "--html": page_file}
    files = {option: path for option, path in named.items() if path is not None}
    check_files(files, (path for job in jobs for path in job.files()))
    if save_degraded:
        run.save_inputs(jobs, save_degraded, count)
    cache = Cache(None if no_cache else registry.cache_dir())

    from fusecli.progress import tqdm

    total = sum(len(job.pair_set.pairs) * len(job.methods) for job in jobs)
    with tqdm(total=total, unit="result", disable=messages.without_bars(quiet), file=sys.stderr) as bar:
        report = run.run(
            jobs,
            protocol,
            names,
            cache=cache,
            workers=count,
            speed=not no_speed,
            progress=bar.update,
        )
    _write_files(report, files)
    if not no_html:
        from fusecli.benchmark import page

        page.write(html, report, page.pick_cases(report, jobs, cases, cache))
        log.info("page: %s", html)
    if STDOUT not in files.values():
        from fusecli.benchmark.report import terminal

        terminal(report, _console())
    every = [method for found in report.datasets.values() for method in found.methods.values()]
    judged = [method.name for method in every if method.kind != "classical" or method.name in methods]
    _stop_if(compare.failures(report, gates, judged))


@app.command("compare")
def compare_reports(
    before: Annotated[
        Path,
        typer.Argument(parser=options.path, metavar="A.json", help="Report of --json, the older one; - for stdin."),
    ],
    after: Annotated[
        Path, typer.Argument(parser=options.path, metavar="B.json", help="Report of --json, the newer one.")
    ],
    methods: Annotated[
        list[str],
        typer.Option("--methods", "-m", callback=_listed, help="Only these; for several repeat it or use commas."),
    ] = [],  # noqa: B006
    fail_below: FailBelow = [],  # noqa: B006
    fail_worse: Annotated[
        bool, typer.Option("--fail-worse", help="Exit 1 if any metric became significantly worse.")
    ] = False,
) -> None:
    """Show what moved from report A to report B, with a paired test; --fail-below and --fail-worse judge B.

    Methods are compared with those of the same name.
    """
    messages.set_up()
    from fusecli.benchmark import compare, results

    old, new = results.load(before), results.load(after)
    gates = compare.gates(fail_below, new.protocol, new.metrics)
    moves, remarks = compare.compare(old, new, methods)
    compare.show(moves, remarks, new.protocol, _console())
    failed = compare.failures(new, gates, methods)
    if fail_worse:
        failed += [
            f"{move.dataset}, {move.method}: {move.metric.name} became worse ({move.change:+.3f}, p {move.p:.2g})"
            for move in moves
            if move.verdict == "worse"
        ]
    _stop_if(failed)


def _metric_names(given: list[str], protocol: str) -> list[str]:
    """Metric names of ``--metrics`` in the order of the protocol."""
    from fusecli.benchmark.results import DEFAULT_METRICS

    if protocol not in registry.METRICS:
        raise UsageError(registry.unknown("protocol", protocol, registry.METRICS))
    known = registry.METRICS[protocol]
    if "all" in given or (not given and protocol == "vifb"):
        return list(known)
    wanted = given or list(DEFAULT_METRICS)
    spelled = {name.lower(): name for name in known}
    for name in wanted:
        if name.lower() not in spelled:
            raise UsageError(registry.unknown(f"metric of protocol {protocol}", name, known))
    chosen = {spelled[name.lower()] for name in wanted}
    return [name for name in known if name in chosen]


def _fused_folders(texts: list[str]) -> dict[str, Path]:
    found = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise UsageError(f"--fused {text}: expected NAME=DIR, such as MyMethod=results/")
        if name in found:
            raise UsageError(f"--fused {text}: a second folder called {name}")
        found[name] = options.path(folder)
    return found


def _add_results(methods: list[Method], results: dict[str, Path]) -> None:
    """Add the folders of ``--fused``. Raises UsageError for a name that is taken, and where there is no method then."""
    from fusecli.benchmark.methods import Folder

    taken = {method.name for method in methods}
    for name in results:
        if name in taken:
            raise UsageError(f"--fused {name}=…: there is a method of that name; give it another")
    methods += [Folder(name, folder) for name, folder in results.items()]
    if not methods:
        raise UsageError("no method to measure: --methods none needs at least one --fused NAME=DIR")


def _leave_out_seen(found: PairSet, methods: list[Method], include_seen: bool) -> None:
    """Drop the pairs that released ones among the methods have seen; note what is known of others."""
    from fusecli.benchmark import datasets
    from fusecli.benchmark.methods import Network

    networks = [method for method in methods if isinstance(method, Network)]
    datasets.leave_out_seen(found, [method.card for method in networks if method.card], include_seen)
    own = [method for method in networks if method.card is None]
    unknown = [one.name for one in own if not datasets.note_own_training(found, one.name, one.path)]
    if unknown:
        found.notes.append(f"{', '.join(unknown)}: no model card, so pairs seen in training could not be left out")


def _write_files(report: Report, files: dict[str, Path]) -> None:
    from fusecli.benchmark import report as tables
    from fusecli.images.atomic import write_text

    made: dict[str, Callable[[Report], str]] = {
        "--csv": tables.to_csv,
        "--json": lambda report: json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "--latex": tables.to_latex,
        "--markdown": tables.to_markdown,
    }
    for option, make in made.items():
        if option in files:
            write_text(files[option], make(report))


def _console() -> Console:
    """Stdout; as wide as needed where it is no terminal, so that nothing is cut in a file."""
    from rich.console import Console

    width = None if messages.is_terminal(sys.stdout) else 240
    return Console(width=width, highlight=False, markup=False, emoji=False)  # names may have brackets and colons


def _stop_if(failed: list[str]) -> None:
    if failed:
        for line in failed:
            log.error("failed: %s", line)
        raise typer.Exit(EXIT_NOTHING_DONE)
