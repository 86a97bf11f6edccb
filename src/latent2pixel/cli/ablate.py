"""``l2p ablate``: ways of making a pixel model against each other."""

import json
from pathlib import Path
from typing import Annotated

import typer


def ablate(
    out: Annotated[Path, typer.Argument(help="Folder of runs, tables and figures; the same call again goes on.")],
    studies: Annotated[
        list[str] | None,
        typer.Option("--study", help="data, depth, size, shift, shift-64, recipes, rates-RECIPE, or a YAML file."),
    ] = None,
    paper: Annotated[bool, typer.Option(help="The studies of the paper's figures 9 and 12.")] = False,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="A seed; several times. Default: 0, 1 and 2.")
    ] = None,
    source: Annotated[str, typer.Option(help="Pipeline folder of a miniature source.")] = "shipped",
    other_source: Annotated[
        Path | None, typer.Option(help="Of another one, for the study data: see `l2p world train-source`.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the budget; --dry-run lists them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print budget and studies, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Make pixel models of the miniature in several ways at equal budget; one table and one figure for each study.

    The same command, started several times on the same folder, shares the runs out among its processes.
    """
    from dataclasses import asdict

    from latent2pixel.config import apply_overrides, build_config
    from latent2pixel.workflow.ablation.studies import chosen_studies
    from latent2pixel.workflow.ablation.study import AblationConfig

    config = build_config(AblationConfig, apply_overrides(asdict(AblationConfig()), overrides or []))
    chosen = chosen_studies(studies or [], paper=paper)
    if dry_run:
        typer.echo(json.dumps({"budget": asdict(config), "studies": [asdict(study) for study in chosen]}, indent=2))
        return

    from latent2pixel.io.pipeline_folder import find_pipeline_folder
    from latent2pixel.workflow.ablation.ablate import Ablation
    from latent2pixel.world.source_model import SHIPPED_SOURCE

    ablation = Ablation(
        out,
        source=SHIPPED_SOURCE if source == "shipped" else find_pipeline_folder(source),
        other=None if other_source is None else find_pipeline_folder(other_source),
        config=config,
        announce=lambda line: typer.echo(line, err=True),
    )
    results = ablation.run(chosen, seeds or [0, 1, 2])
    if as_json:
        typer.echo(json.dumps({"studies": [result.as_record() for result in results]}))
        return
    for result in results:
        typer.echo(str(out / f"{result.name}.md"))
