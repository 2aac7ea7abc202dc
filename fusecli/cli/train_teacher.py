"""`fusecli train-teacher`: the text-guided teacher, or any architecture by its recipe, on clean or degraded pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusecli import registry
from fusecli.cli import messages, options
from fusecli.errors import UsageError
from fusecli.stream.stop import stopping


def train_teacher(
    recipe: Annotated[
        Path | None, options.place("Recipe (TOML). Default: every set in train/ of the data root.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help=f"Without a recipe: {', '.join(registry.TASKS)}. Default: ir-vis.")
    ] = None,
    data_root: options.DataRoot = None,
    output: Annotated[Path, options.output("Folder of the run; resumed if it has one.")] = Path("runs/teacher"),
    settings: options.Settings = [],  # noqa: B006 - typer copies it
    device: options.Device = "auto",
    workers: options.DrawWorkers = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a network with the fusion loss. A stopped or killed run goes on when started again.

    Without a recipe the sets are <root>/train/<set>/<side>/ (or train/<side>/, if there is but one), and those in
    <root>/val/ choose the best weights.

    Several GPUs: torchrun --nproc-per-node 4 -m fusecli train-teacher …
    """
    messages.set_up(quiet=quiet)
    options.sleep_when_waiting()
    if recipe and task is not None:
        raise UsageError(f"--task {task}: of a run without a recipe; {recipe} names its tasks, as train.{task} = […]")
    task = "ir-vis" if task is None else task
    registry.check_task(task)
    from fusecli.training import session
    from fusecli.training.recipe import Recipe

    root = session.data_root(data_root)
    plan = (
        Recipe.read(recipe, settings)
        if recipe
        else Recipe.from_dict(session.default_recipe(registry.TASKS[task], root), settings)
    )
    with stopping() as stop:
        path = session.train(plan, root, output, device=device, workers=workers, quiet=quiet, stop=stop)
    if path is not None:
        typer.echo(path)
