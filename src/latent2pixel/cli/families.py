"""``l2p families``: which sources can be converted, and what they become."""

import json
from dataclasses import asdict
from typing import Annotated

import typer


def families(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    markdown: Annotated[bool, typer.Option(help="Print the page docs/families.md.")] = False,
    limits: Annotated[bool, typer.Option(help="Print how large images of each can be, in Markdown.")] = False,
) -> None:
    """List the published sources: family, objective, patch, parameters, what trains."""
    from latent2pixel.families.catalogue import catalogue
    from latent2pixel.families.catalogue import markdown as page

    if limits:
        from latent2pixel.families.catalogue import releases
        from latent2pixel.families.limits import limits_table

        typer.echo(limits_table(releases()), nl=False)
        return
    entries = catalogue()
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries]))
        return
    if markdown:
        typer.echo(page(entries), nl=False)
        return
    rows = [("source", "family", "objective", "px", "parameters", "trains", "status")]
    rows += [
        (
            entry.release,
            entry.family,
            entry.objective,
            str(entry.pixels_per_token),
            f"{entry.parameters / 1e9:.2f} B",
            f"{entry.trainable_share:.0%}",
            entry.status,
        )
        for entry in entries
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
