"""`fusecli models`: what is released, for which task, with which scores."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fusecli import registry


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the model cards as JSON.")] = False,
) -> None:
    """List the released models with their tasks, sizes and scores on the validation sets."""
    cards = registry.released()
    if as_json:
        typer.echo(json.dumps(cards, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "tasks", "parameters", "trained on", "scores (protocol tang)")
    for card in cards.values():
        scores = "\n".join(
            f"{name}: " + " ".join(f"{metric} {value:.3f}" for metric, value in values.items())
            for name, values in card["scores"].items()
        )
        table.add_row(
            card["name"], ", ".join(card["tasks"]), f"{card['parameters']:,}", ", ".join(card["trained_on"]), scores
        )
    Console().print(table)
