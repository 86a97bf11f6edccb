"""The miniature's prompts by the data engine: the world's own captions, offline."""

import asyncio
from collections import Counter

import pytest

from latent2pixel.data.prompting.language_model import Question, QuestionRefused
from latent2pixel.data.prompts import load_prompts
from latent2pixel.errors import StateError
from latent2pixel.workflow.world_prompts import WorldWriter, write_world_prompts
from latent2pixel.world.captions import TASKS, draw_captions, is_heldout
from latent2pixel.world.levels import require_level


def test_prompts_are_the_captions_that_the_world_draws(tmp_path):
    """The same texts in the same order as without the engine, so that images keep their seeds."""
    report = write_world_prompts(tmp_path / "p", level="easy", num=120, seed=3)
    prompts = load_prompts(tmp_path / "p" / "prompts.jsonl")
    drawn = draw_captions(require_level("easy"), "train", 120, seed=3)
    assert (report.kept, report.rejected) == (120, {})
    assert [prompt.prompt for prompt in prompts] == [caption.text for caption in drawn]
    assert [prompt.sub_class for prompt in prompts] == [caption.task for caption in drawn]
    assert prompts[7].id == "000007"
    assert not any(is_heldout(prompt.prompt) for prompt in prompts)
    assert Counter(prompt.sub_class for prompt in prompts) == dict.fromkeys(TASKS, 20)


def test_a_level_with_too_few_captions_says_so(tmp_path):
    report = write_world_prompts(tmp_path / "p", level="easy", num=1200, seed=0)
    assert report.kept < 1200
    assert report.rejected == {"duplicate": 1200 - report.kept}
    texts = [prompt.prompt for prompt in load_prompts(tmp_path / "p" / "prompts.jsonl")]
    assert len(set(texts)) == len(texts)


def test_again_and_with_another_level(tmp_path):
    write_world_prompts(tmp_path / "p", level="easy", num=12, seed=0)
    assert write_world_prompts(tmp_path / "p", level="easy", num=12, seed=0).new_replies == 0
    with pytest.raises(StateError):
        write_world_prompts(tmp_path / "p", level="full", num=12, seed=0)


def test_the_world_audits_nothing():
    writer = WorldWriter(require_level("easy"), num=6, seed=0)
    question = Question(task="audit", system="", data={}, schema={}, seed=0, temperature=0.0, max_tokens=1)
    with pytest.raises(QuestionRefused):
        asyncio.run(writer.ask(question))
