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

    console = Console()
    for card in cards.values():
        console.print(f"\n[bold]{card['name']}[/] for {', '.join(card['tasks'])}: {card['parameters']:,} parameters")
        config = card["config"]
        look = config.get("nano", config).get("look")  # a base network has a nano inside, which holds the look
        if look is not None:
            console.print(f"  looks from 0 (thermal) to 1 (natural), {look} by default")
        console.print(f"  trained on {', '.join(card['trained_on'])}; {card['licence']}")
        metrics = list(next(iter(card["scores"].values())))
        table = Table(caption="protocol tang; in brackets: of ten degraded copies, against clean sources")
        table.add_column("set", no_wrap=True)
        for metric in metrics:
            table.add_column(metric, justify="right")
        for name, values in card["scores"].items():
            worse = card["scores_degraded"][name]
            table.add_row(name, *(f"{values[metric]:.3f} ({worse[metric]:.3f})" for metric in metrics))
        console.print(table)
