"""``l2p data prompts`` and ``l2p data taxonomy`` from their arguments to what they print."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from tests.tiny.language_model import save_tiny_language_model
from tests.tiny.llm_server import llm_server
from typer.testing import CliRunner

from latent2pixel.cli.app import app
from latent2pixel.data.prompting.settings import AskSettings, PromptSettings
from latent2pixel.data.prompting.taxonomy import load_taxonomy
from latent2pixel.data.prompts import load_prompts
from latent2pixel.errors import ConfigError, EndpointError


def run(*arguments):
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_world(tmp_path):
    out = tmp_path / "p"
    result = run("prompts", out, "--backend", "world", "--num", 12)
    assert result.stdout == f"{out}\n"
    assert "12 of 12 prompts kept" in result.stderr
    assert len(load_prompts(out / "prompts.jsonl")) == 12
    again = json.loads(run("prompts", out, "--backend", "world", "--num", 12, "--json").stdout)
    assert (again["kept"], again["new_replies"], again["out"]) == (12, 0, str(out))


def test_a_server_and_another_for_the_auditor(tmp_path):
    arguments = ["--model", "small", "--num", 10, "--extra-body", '{"top_k": 5}', "--set", "batch_size=4"]
    with llm_server() as writer, llm_server() as auditor:
        arguments += ["--base-url", writer.base_url, "--judge-base-url", auditor.base_url, "--judge-model", "large"]
        report = json.loads(run("prompts", tmp_path / "p", *arguments, "--json").stdout)
        assert report["kept"] == 10
        assert {request["model"] for request in writer.requests} == {"small"}
        assert {request["model"] for request in auditor.requests} == {"large"}
        assert (set(writer.tasks()), set(auditor.tasks())) == ({"write"}, {"audit"})
        assert writer.requests[0]["top_k"] == 5
    settings = json.loads((tmp_path / "p" / "manifest.json").read_text())["settings"]
    assert (settings["backend"], settings["judge_model"]) == ("openai", 'large {"top_k": 5}')


def test_a_model_in_this_process(tmp_path):
    model = save_tiny_language_model(tmp_path / "tiny")
    few = ["--num", 1, "--set", "rounds=1", "--set", "attempts=1", "--set", "max_tokens=200", "--set", "zh_share=0"]
    report = json.loads(
        run("prompts", tmp_path / "p", "--backend", "transformers", "--model", model, *few, "--json").stdout
    )
    assert report["replies"]["write"] == 1
    assert report["kept"] + sum(report["rejected"].values()) == 1


def test_an_edited_taxonomy_and_templates(tmp_path):
    file = tmp_path / "mine.yaml"
    assert run("taxonomy", file).stdout == f"{file}\n"
    edited = yaml.safe_load(file.read_text())
    edited["classes"] = [edited["classes"][0] | {"name": "birds"}]
    file.write_text(yaml.safe_dump(edited))
    counts = json.loads(run("taxonomy", file, "--json").stdout)
    assert (counts["classes"], counts["sub_classes"]) == (1, 7)
    with llm_server() as server:
        run("prompts", tmp_path / "p", "--model", "m", "--base-url", server.base_url, "--num", 5, "--taxonomy", file)
    assert {prompt.major_class for prompt in load_prompts(tmp_path / "p" / "prompts.jsonl")} == {"birds"}


def test_dry_run_asks_nobody(tmp_path):
    shown = yaml.safe_load(run("prompts", tmp_path / "p", "--model", "m", "--num", 100, "--dry-run").stdout)
    assert (shown["num"], shown["concurrency"], shown["shares"]["nature/food"]) == (100, 8, 6)
    assert shown["categories"] > 1000
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "m", "--set", "batchsize=3"], "batch_size"),
        (["--model", "m", "--set", "zh_share=2"], "zh_share"),
        (["--backend", "vllm"], "openai, transformers, world"),
        ([], "--model"),
        (["--model", "m", "--base-url", "http://localhost:1/v1", "--extra-body", "[1]"], "extra-body"),
        (["--backend", "world", "--set", "zh_share=0.5"], "--num, --seed and --level alone"),
        (["--backend", "world", "--level", "hard"], "easy"),
        (["--model", "m", "--taxonomy", "missing.yaml"], "missing.yaml"),
    ],
)
def test_mistakes_are_named(tmp_path, arguments, named):
    with pytest.raises(ConfigError) as mistake:
        run("prompts", tmp_path / "p", *arguments)
    assert named in str(mistake.value)


def test_no_server(tmp_path):
    """Nothing listens: told within seconds, and what the folder is for stays written down."""
    with llm_server() as server:
        pass
    few = ["--set", "retries=1", "--set", "backoff_s=0.01", "--set", "stop_after=2", "--num", 30]
    with pytest.raises(EndpointError) as told:
        run("prompts", tmp_path / "p", "--model", "m", "--base-url", server.base_url, *few)
    assert "connection" in told.value.found
    assert (tmp_path / "p" / "manifest.json").exists()


def test_the_page_names_every_setting():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    names = {field.name for settings in (PromptSettings, AskSettings) for field in fields(settings)}
    missing = {name for name in names - {"num", "seed"} if f"`{name}`" not in page}
    assert not missing
    assert f"{load_taxonomy().num_categories()} categories" in page
