"""A real, tiny language model in this process: whatever its random weights say has the form that was asked for."""

import asyncio
import json

import pytest
import torch
from tests.tiny.language_model import CHAT_TEMPLATE, save_tiny_language_model

from latent2pixel.data.prompting.language_model import Question
from latent2pixel.data.prompting.local_model import load_local_model
from latent2pixel.data.prompting.replies import Verdict, WrittenPrompt, auditor_schema, read_items, writer_schema
from latent2pixel.data.prompting.settings import AskSettings, PromptSettings
from latent2pixel.data.prompting.templates import load_templates
from latent2pixel.data.prompting.write import write_prompts
from latent2pixel.errors import ConfigError, SourceError
from latent2pixel.io.records import read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_language_model(tmp_path_factory.mktemp("llm") / "tiny")


def question(schema, **changes):
    settings = {"task": "write", "system": "Write.", "data": {"items": [1]}, "seed": 0, "temperature": 1.0}
    return Question(schema=schema, **{"max_tokens": 1000} | settings | changes)


def ask(model, *questions):
    async def run():
        return [await model.ask(one) for one in questions]

    return asyncio.run(run())


def test_replies_have_the_form_of_the_schema(folder):
    model = load_local_model(str(folder))
    assert model.name == "tiny"
    written, verdicts = ask(model, question(writer_schema(2)), question(auditor_schema(1), temperature=0.7, seed=5))
    assert [entry["number"] in (1, 2) for entry in json.loads(written.text)["prompts"]] == [True, True]
    assert set(read_items(verdicts.text, "verdicts", Verdict, num=1)) == {1}
    # A token a character here: the two messages, and the template's marks around three turns.
    assert written.tokens_in == len("system\nWrite.\nuser\n" + question({}).user_message() + "\nassistant\n") + 5
    assert written.tokens_out > 20


def test_the_seed_decides_and_torchs_own_state_stays(folder):
    model = load_local_model(str(folder))
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again, other = ask(model, *(question(writer_schema(1), seed=seed) for seed in (7, 7, 8)))
    assert first == again
    assert first.text != other.text
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_reply_that_reaches_the_limit_is_told(folder):
    (reply,) = ask(load_local_model(str(folder)), question(writer_schema(2), max_tokens=12))
    assert reply.is_cut
    assert reply.tokens_out == 12


def test_a_model_without_chat_template(tmp_path):
    model = load_local_model(str(save_tiny_language_model(tmp_path / "base", chat_template=None)))
    (reply,) = ask(model, question(writer_schema(1)))
    assert set(read_items(reply.text, "prompts", WrittenPrompt, num=1)) == {1}


def test_a_template_without_system_role(tmp_path):
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT_TEMPLATE
    model = load_local_model(str(save_tiny_language_model(tmp_path / "two", chat_template=refusing)))
    (reply,) = ask(model, question(writer_schema(1)))
    assert set(read_items(reply.text, "prompts", WrittenPrompt, num=1)) == {1}


def test_a_folder_of_prompts_by_a_model_that_babbles(folder, tmp_path, taxonomy):
    """Nonsense is rejected, with its reason, and counted; the run ends."""
    report = write_prompts(
        tmp_path / "out",
        taxonomy=taxonomy,
        templates=load_templates(),
        settings=PromptSettings(num=3, batch_size=1, near_duplicates=0, zh_share=0.0),
        asking=AskSettings(rounds=1, attempts=1, max_tokens=400),
        writer=load_local_model(str(folder)),
        backend="transformers",
    )
    rejected = read_records(tmp_path / "out" / "rejected.jsonl")
    assert report.kept + len(rejected) == 3
    assert report.replies["write"] == 3
    assert all(record["stage"] and record["reason"] for record in rejected)


def test_a_folder_that_holds_no_model(tmp_path):
    with pytest.raises(SourceError, match="cannot be loaded"):
        load_local_model(str(tmp_path))


def test_a_question_about_a_picture_is_not_answered_blindly(folder):
    with pytest.raises(ConfigError, match="sees no pictures"):
        ask(load_local_model(str(folder)), question(writer_schema(1), picture=b"PNG"))
