"""``l2p inspect``: what a pipeline folder is, before anything is converted or trained."""

import json
from dataclasses import asdict
from typing import Annotated

import typer


def inspect(
    model: Annotated[str, typer.Argument(help="Latent source or pixel model: a folder, or owner/name on the Hub.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which family a pipeline is of, its blocks, objective, patch, text encoders, and what would train."""
    from latent2pixel.convert.inspect import inspect as run
    from latent2pixel.io.pipeline_folder import find_pipeline_folder

    found = run(find_pipeline_folder(model))
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    lines = {
        "kind": found.kind,
        "family": found.family,
        "pipeline": found.pipeline,
        "transformer": f"{found.transformer}, predicts {found.objective}",
        "pixels a token": str(found.pixels_per_token),
        "blocks": " -> ".join(f"{name} ({number})" for name, number in found.blocks.items()),
        "text encoders": ", ".join(f"{name}: {cls}" for name, cls in found.text_encoders.items()) or "none",
        "weights": ", ".join(f"{name}: {dtype}" for name, dtype in found.dtypes.items()),
        "parameters": f"{found.parameters:,}, of which {found.trainable_share:.1%} train under recipe paper",
    }
    if found.lift:
        lines["lift"] = ", ".join(f"{key} {value}" for key, value in found.lift.items() if key != "fit")
    for name, text in lines.items():
        typer.echo(f"{name:15} {text}")
