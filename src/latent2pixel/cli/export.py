"""``l2p export``: a pixel model in another form."""

import json
from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[str, typer.Argument(help="Pixel pipeline: a folder, or owner/name on the Hub.")],
    out: Annotated[Path, typer.Argument(help="File (--released) or folder (--remote-code) to make.")],
    released: Annotated[bool, typer.Option("--released", help="One file under the published weights' names.")] = False,
    remote_code: Annotated[
        bool, typer.Option("--remote-code", help="A folder that loads with trust_remote_code, without this library.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Write a pixel model as the published file, or as a folder that carries its code."""
    from latent2pixel.errors import ConfigError

    if released == remote_code:
        raise ConfigError(
            "It is not said in which form the model shall be written",
            found="both --released and --remote-code" if released else "neither --released nor --remote-code",
            expected="one of them",
            fix="Choose --released for the published file, --remote-code for use without this library.",
        )
    from latent2pixel.convert.released import export_released
    from latent2pixel.convert.remote_code import export_with_code

    made = export_released(model, out) if released else export_with_code(model, out)
    typer.echo(json.dumps({"path": str(made)}) if as_json else str(made))
