"""``l2p ladder``: a pixel model becomes one with patches twice as large."""

import json
from pathlib import Path
from typing import Annotated

import typer


def ladder(
    model: Annotated[str, typer.Argument(help="Pixel pipeline: a folder, or owner/name on the Hub.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Double a pixel model's patch: a quarter of the tokens, the transformer's weights kept; to be trained on."""
    from latent2pixel.convert.ladder import climb

    report = climb(model, out)
    if as_json:
        result = {"folder": str(report.folder), "patch_size": report.patch_size, "noise_shift": report.noise_shift}
        typer.echo(json.dumps(result))
        return
    typer.echo(f"patch {report.patch_size}, noise shift {report.noise_shift:g}", err=True)
    typer.echo(str(report.folder))
