"""``l2p data prompts`` and ``l2p data taxonomy``: prompts by a language model, and what they are about."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from latent2pixel.data.prompting.language_model import LanguageModel
    from latent2pixel.data.prompting.settings import AskSettings, PromptSettings
    from latent2pixel.data.prompting.taxonomy import Taxonomy

BACKENDS = ("openai", "transformers", "world")


def prompts(
    out: Annotated[Path, typer.Argument(help="Folder of prompts; the same call again goes on.")],
    backend: Annotated[str, typer.Option(help="openai (any compatible server), transformers, or world.")] = "openai",
    model: Annotated[str, typer.Option(help="The server's name of the model, or its folder or Hub id.")] = "",
    base_url: Annotated[
        str, typer.Option(help="Such as http://localhost:8000/v1; empty: OpenAI's or OPENAI_BASE_URL.")
    ] = "",
    api_key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    judge_model: Annotated[str, typer.Option(help="Model of the auditor; empty: the writer's.")] = "",
    judge_base_url: Annotated[str, typer.Option(help="Server of the auditor; empty: the writer's.")] = "",
    extra_body: Annotated[str, typer.Option(help="JSON object that is sent with every question.")] = "",
    taxonomy: Annotated[Path | None, typer.Option(help="YAML file of classes; left out: the shipped one.")] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Folder of system prompts; left out: the shipped ones.")
    ] = None,
    level: Annotated[str, typer.Option(help="Level of the world: easy, medium or full.")] = "easy",
    num: Annotated[int, typer.Option(help="Prompts to keep.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of plan, directions and sampling.")] = 0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE for any other setting; --dry-run lists them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings and shares, ask nobody.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Write and audit prompts with a language model: prompts.jsonl, rejected.jsonl with reasons, manifest.json."""
    from dataclasses import asdict

    from latent2pixel.data.prompting.taxonomy import SHIPPED, load_taxonomy
    from latent2pixel.data.prompting.templates import load_templates
    from latent2pixel.data.prompting.write import write_prompts
    from latent2pixel.workflow.world_prompts import world_taxonomy, write_world_prompts

    settings, asking = _settings({"num": num, "seed": seed}, overrides or [])
    _require_backend(backend, model)
    if backend == "world":
        _require_world(settings, taxonomy or templates)
    classes = world_taxonomy() if backend == "world" else load_taxonomy(taxonomy or SHIPPED)
    if dry_run:
        _show(settings, asking, classes, as_json=as_json)
        return
    if backend == "world":
        report = write_world_prompts(out, level=level, num=settings.num, seed=settings.seed)
    else:
        writer = _model(backend, model, base_url, api_key_env, extra_body, asking.timeout_s)
        auditor = None
        if judge_model or judge_base_url:
            server = judge_base_url or base_url
            auditor = _model(backend, judge_model or model, server, api_key_env, extra_body, asking.timeout_s)
        report = write_prompts(
            out,
            taxonomy=classes,
            templates=load_templates(templates),
            settings=settings,
            asking=asking,
            writer=writer,
            auditor=auditor,
            backend=backend,
        )
    typer.echo(report.describe(), err=True)
    typer.echo(json.dumps({"out": str(out), **asdict(report)}) if as_json else str(out))


def taxonomy_file(
    file: Annotated[Path, typer.Argument(help="YAML file: checked if it exists, otherwise written to be edited.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Write the shipped taxonomy into a file, or check a file and count what it holds."""
    from latent2pixel.data.prompting.taxonomy import SHIPPED, load_taxonomy
    from latent2pixel.io.new_folder import write_file

    if not file.exists():
        write_file(file, SHIPPED.read_bytes())
    loaded = load_taxonomy(file)
    subs = loaded.sub_classes()
    counts = {"classes": len(loaded.classes), "sub_classes": len(subs), "categories": loaded.num_categories()}
    typer.echo(", ".join(f"{count} {name.replace('_', '-')}" for name, count in counts.items()), err=True)
    typer.echo(json.dumps({"file": str(file), **counts}) if as_json else str(file))


def _settings(options: dict[str, int], overrides: list[str]) -> "tuple[PromptSettings, AskSettings]":
    """Return both kinds of settings from the overrides: a name belongs to one of them."""
    from dataclasses import fields

    from latent2pixel.config import apply_overrides, build_config
    from latent2pixel.data.prompting.settings import AskSettings, PromptSettings

    given = apply_overrides(options, overrides)
    of_asking = {field.name for field in fields(AskSettings)}
    asking = build_config(AskSettings, {key: value for key, value in given.items() if key in of_asking})
    return build_config(PromptSettings, {key: value for key, value in given.items() if key not in of_asking}), asking


def _show(settings: "PromptSettings", asking: "AskSettings", classes: "Taxonomy", *, as_json: bool) -> None:
    """Print what would be done: all settings, and the prompts of each sub-class."""
    from dataclasses import asdict

    import yaml

    shares = {"/".join(key): count for key, count in classes.counts(settings.num).items()}
    resolved = {**asdict(settings), **asdict(asking), "categories": classes.num_categories(), "shares": shares}
    typer.echo(json.dumps(resolved) if as_json else yaml.safe_dump(resolved, sort_keys=False).rstrip())


def _require_backend(backend: str, model: str) -> None:
    from latent2pixel.errors import ConfigError

    if backend not in BACKENDS:
        raise ConfigError(
            "There is no backend of that name",
            found=backend,
            expected=f"one of {', '.join(BACKENDS)}",
            fix="Choose one of them with --backend.",
        )
    if backend != "world" and not model:
        raise ConfigError(
            f"The backend {backend} needs a model",
            found="no --model",
            expected="the server's name of the model, or a folder or Hub id for transformers",
            fix="Give --model, or try --backend world, which needs none.",
        )


def _require_world(settings: "PromptSettings", files: Path | None) -> None:
    from dataclasses import replace

    from latent2pixel.data.prompting.settings import PromptSettings
    from latent2pixel.errors import ConfigError

    changed = replace(settings, num=1, seed=0) != PromptSettings(num=1)
    if changed or files:
        raise ConfigError(
            "The backend world has settings and classes of its own",
            found=f"the file {files}" if files else "other settings given with --set",
            expected="--num, --seed and --level alone",
            fix="Leave them out, or choose another backend.",
        )


def _model(
    backend: str, model: str, base_url: str, api_key_env: str, extra_body: str, timeout_s: float
) -> "LanguageModel":
    from latent2pixel.data.prompting.local_model import load_local_model
    from latent2pixel.data.prompting.openai_model import OpenAIModel
    from latent2pixel.errors import ConfigError

    if backend == "transformers":
        return load_local_model(model)
    try:
        extra = json.loads(extra_body or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise ConfigError(
            "--extra-body is no JSON object",
            found=extra_body,
            expected='such as {"chat_template_kwargs": {"enable_thinking": false}}',
            fix="Put it in single quotes.",
        )
    return OpenAIModel(model, base_url=base_url or None, api_key_env=api_key_env, timeout_s=timeout_s, extra_body=extra)
