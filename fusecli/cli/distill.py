"""`fusecli distill`: a student that needs no text learns to give the teacher's results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fusecli import registry
from fusecli.cli import messages, options
from fusecli.errors import UsageError
from fusecli.stream.stop import stopping

STUDENTS = ("nano", "base", "paper")


def distill(
    teacher: Annotated[Path, options.place("Teacher's checkpoint (.pt or .safetensors).")],
    student: Annotated[
        str | None,
        typer.Option(help="nano, base (nano and a U-Net) or paper (the paper's). Default: the recipe's, else nano."),
    ] = None,
    recipe: Annotated[Path | None, options.place("Recipe (TOML). Default: the teacher's sets.")] = None,
    data_root: options.DataRoot = None,
    output: Annotated[Path, options.output("Folder of the run; resumed if it has one.")] = Path("runs/student"),
    feature_weight: Annotated[float, typer.Option(help="Weight of the feature loss; 0 leaves it out.", min=0)] = 0.1,
    settings: options.Settings = [],  # noqa: B006 - typer copies it
    device: options.Device = "auto",
    workers: options.DrawWorkers = None,
    quiet: options.Quiet = False,
) -> None:
    """Distil a student from a teacher and print the path of its weights, ready for `fusecli fuse -m`.

    A stopped or killed run goes on when started again. Without a data root the teacher's is taken.
    """
    messages.set_up(quiet=quiet)
    options.sleep_when_waiting()
    from fusecli.models import checkpoint
    from fusecli.text.encode import carried_vectors
    from fusecli.training import session
    from fusecli.training.recipe import Recipe

    files = [
        registry.WEIGHTS_DIR / f"{stem}.safetensors"
        for stem, card in registry.released().items()
        if card["name"] == str(teacher)
    ]
    if files and not teacher.is_file():
        raise UsageError(f"--teacher {teacher}: name its file: {' or '.join(map(str, files))}")
    state = checkpoint.training_state(teacher)
    root = session.data_root(data_root, state.get("data_root", ""))
    carried, made_with = state.get("text", {}), state.get("recipe", {})  # of an older version it may lack some keys
    texts = {"text": carried["encoder"], "descriptions": made_with.get("descriptions", "")} if carried else {}
    if recipe:
        plan = Recipe.read(recipe, [*settings, f"architecture={student}"] if student is not None else settings)
    elif made_with:
        taken = {key: made_with[key] for key in ("train", "val", "degrade", "loss", "losses") if key in made_with}
        plan = Recipe.from_dict(
            {**taken, **texts, "architecture": STUDENTS[0] if student is None else student}, settings
        )
    else:
        raise UsageError(f"{teacher}: holds weights without their recipe; name the data with --recipe")
    if plan.architecture not in STUDENTS:
        raise UsageError(registry.unknown("student", plan.architecture, STUDENTS))
    networks = [checkpoint.load(str(teacher), task) for task in plan.tasks]  # says so if it is a teacher of other tasks
    if getattr(networks[0], "text_dim", 0) and not plan.text:
        plan = replace(plan, **(texts or {"text": "minilm"}))
    with stopping() as stop:
        made = session.train(
            plan,
            root,
            output,
            device=device,
            teacher=networks[0],
            feature_weight=feature_weight,
            text_vectors=carried_vectors(carried),
            workers=workers,
            quiet=quiet,
            stop=stop,
        )
    if made is not None:
        typer.echo(made)
