"""``l2p data``: filter prompts, and make images of them with the source."""

import json
from pathlib import Path
from typing import Annotated

import typer

from latent2pixel.cli import data_prompts, data_sets
from latent2pixel.cli.synthesize import synthesize

app = typer.Typer(help="Training data: prompts, images made by the source or imported, sets.", no_args_is_help=True)
app.command("prompts")(data_prompts.prompts)
app.command("taxonomy")(data_prompts.taxonomy_file)
app.command("import")(data_sets.import_images)
app.command("pack")(data_sets.pack)
app.command("push")(data_sets.push)
app.command("stats")(data_sets.stats)


@app.command("filter")
def filter_prompts(
    prompts: Annotated[Path, typer.Argument(help="JSON lines with id, prompt, major_class and sub_class.")],
    out: Annotated[Path, typer.Argument(help="Receives the valid prompts.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Keep the valid prompts; the reason for every rejected one goes to stderr."""
    from latent2pixel.data.judge import audit
    from latent2pixel.data.prompts import load_prompts, save_prompts

    judged = audit(load_prompts(prompts))
    save_prompts(out, judged.kept)
    for prompt, reason in judged.rejected:
        typer.echo(f"rejected {prompt.id}: {reason}", err=True)
    counts = {"out": str(out), "kept": len(judged.kept), "rejected": len(judged.rejected)}
    typer.echo(json.dumps(counts) if as_json else str(out))


app.command("synthesize")(synthesize)
