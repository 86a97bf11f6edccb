"""Limits: how many questions at a time, how fast, and how long it takes to give up."""

import asyncio
import resource
import sys
import time

import pytest

from latent2pixel.data.prompting.asking import Asker, Usage
from latent2pixel.data.prompting.journal import Journal
from latent2pixel.data.prompting.language_model import Question, QuestionRefused, Reply, TemporaryFailure
from latent2pixel.data.prompting.local_model import LocalModel
from latent2pixel.data.prompting.near_duplicates import load_encoder, near_duplicates
from latent2pixel.data.prompting.openai_model import OpenAIModel
from latent2pixel.data.prompting.settings import AskSettings
from latent2pixel.errors import ConfigError, EndpointError, StateError


class Model:
    """A model in this process; ``act`` is a coroutine function from the question to its reply."""

    name = "model"

    def __init__(self, act):
        self.act, self.asked, self.running, self.most = act, [], 0, 0

    async def ask(self, question):
        self.asked.append(time.monotonic())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self.act(question)
        finally:
            self.running -= 1


def questions(num):
    one = {"task": "write", "system": "s", "schema": {}, "temperature": 0.0, "max_tokens": 9}
    return [Question(data={"number": number}, seed=number, **one) for number in range(num)]


def ask_all(model, path, num, **settings):
    usage = Usage()

    async def run():
        journal = Journal(path)
        asker = Asker(model, journal, settings=AskSettings(**{"backoff_s": 0.01} | settings), usage=usage)
        try:
            return await asyncio.gather(*(asker.ask(q, str.upper) for q in questions(num)), return_exceptions=True)
        finally:
            journal.close()

    return asyncio.run(run()), usage


async def answer(question):
    await asyncio.sleep(0.01)
    return Reply(text="yes", tokens_in=30, tokens_out=10)


def test_no_more_at_a_time_than_allowed(tmp_path):
    model = Model(answer)
    outcomes, usage = ask_all(model, tmp_path / "r.jsonl", 12, concurrency=3)
    assert [outcome.result for outcome in outcomes] == ["YES"] * 12
    assert model.most == 3
    assert usage.new_replies == 12
    journal = Journal(tmp_path / "r.jsonl")
    assert (journal.tokens_in, journal.tokens_out, journal.by_task) == (360, 120, {"write": 12})
    journal.close()


@pytest.mark.parametrize("limit", [{"requests_per_minute": 3000}, {"tokens_per_minute": 120_000}])
def test_rates_are_kept(tmp_path, limit):
    """3000 questions a minute are one in 20 ms, and so are 120,000 tokens a minute at 40 tokens each."""
    model = Model(answer)
    ask_all(model, tmp_path / "r.jsonl", 11, concurrency=1, **limit)
    assert model.asked[-1] - model.asked[0] >= 10 * 0.02 * 0.95


def test_all_wait_when_the_server_asks_for_it(tmp_path):
    async def act(question):
        if len(model.asked) == 1:
            raise TemporaryFailure("status 429", "slowly", wait_s=0.3)
        return await answer(question)

    model = Model(act)
    ask_all(model, tmp_path / "r.jsonl", 4, concurrency=1)
    assert model.asked[1] - model.asked[0] >= 0.29


def test_a_servers_wish_to_wait_has_an_end(tmp_path):
    async def act(question):
        if len(model.asked) == 1:
            raise TemporaryFailure("status 429", "tomorrow", wait_s=86400)
        return await answer(question)

    model = Model(act)
    started = time.monotonic()
    outcomes, _ = ask_all(model, tmp_path / "r.jsonl", 1, backoff_s=0.005)
    assert outcomes[0].result == "YES"
    assert time.monotonic() - started < 2


def test_those_under_way_end_when_the_run_stops(tmp_path):
    """One question finds that the key is wrong; the other's reply is paid for, and kept."""

    async def act(question):
        if question.seed == 0:
            await asyncio.sleep(0.02)
            raise EndpointError("no", found="", expected="", fix="")
        await asyncio.sleep(0.1)
        return Reply(text="paid")

    outcomes, usage = ask_all(Model(act), tmp_path / "r.jsonl", 6, concurrency=2)
    assert usage.new_replies == 1
    assert [type(outcome).__name__ for outcome in outcomes].count("EndpointError") == 5
    assert (tmp_path / "r.jsonl").read_text().count("paid") == 1


def test_refused_questions_are_no_silence_but_all_refused_is(tmp_path):
    async def act(question):
        if question.seed % 3 or question.seed > 20:
            raise QuestionRefused("status 400: no")
        return await answer(question)

    outcomes, usage = ask_all(Model(act), tmp_path / "r.jsonl", 40, concurrency=1, stop_after=5)
    assert usage.failures["refused by the server"] == 12 + 5
    assert not any(outcome.is_unanswered for outcome in outcomes[:20])
    assert isinstance(outcomes[-1], EndpointError)


def test_damaged_journal_is_named(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"key": "a"\n{"key": "b", "task": "write", "text": "x"}\n')
    with pytest.raises(StateError, match="Line 1 of"):
        Journal(tmp_path / "r.jsonl")


def test_a_full_disk_leaves_whole_lines(tmp_path):
    """A limit on the file's size stands for the disk: half a line goes, and later ones are read back."""
    path, (before, after) = tmp_path / "r.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal(path)
    journal.add("a", Reply(text="first"), task="write")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, after))
        with pytest.raises(OSError, match="too large"):
            journal.add("b", Reply(text="x" * 1000), task="write")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, after))
    journal.add("c", Reply(text="third"), task="write")
    journal.close()
    again = Journal(path)
    assert [again.reply(key) and again.reply(key).text for key in "abc"] == ["first", None, "third"]
    again.close()


@pytest.mark.parametrize(
    ("package", "build"),
    [
        ("openai", lambda: OpenAIModel("m", base_url="http://localhost:1/v1", timeout_s=1)),
        ("outlines", lambda: LocalModel(None, None, name="m")),
        ("semhash", lambda: near_duplicates([], [("a", "b")], encoder=None, threshold=0.5)),
        ("model2vec", lambda: load_encoder("folder")),
    ],
)
def test_a_missing_package_is_named_with_the_extra(monkeypatch, package, build):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as missing:
        build()
    assert package in missing.value.found
    assert "latent2pixel[data]" in missing.value.fix


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"timeout_s": 0}, {"retries": -1}, {"max_cost": 1.0}, {"concurrency": 0}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ConfigError):
        AskSettings(**wrong)
