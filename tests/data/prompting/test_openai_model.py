"""What servers do with the parameters that they are sent, and what is made of their errors."""

import asyncio
import json
import time

import pytest
from tests.tiny.llm_server import completion, error, llm_server, send

from latent2pixel.data.prompting.language_model import Question, QuestionRefused, TemporaryFailure
from latent2pixel.data.prompting.openai_model import OpenAIModel
from latent2pixel.data.prompting.replies import writer_schema
from latent2pixel.errors import EndpointError


def question(**changes):
    settings = {
        "task": "write",
        "system": "Type of prompt: simple",
        "data": {"items": [{"number": 1, "category": "red fox"}]},
        "schema": writer_schema(1),
        "seed": 3,
        "temperature": 0.5,
        "max_tokens": 77,
    }
    return Question(**settings | changes)


def ask(server, *questions, **options):
    async def run():
        model = OpenAIModel("tiny", base_url=server.base_url, timeout_s=5, **options)
        try:
            return [await model.ask(one) for one in questions or [question()]]
        finally:
            await model.close()

    return asyncio.run(run())


def test_what_is_sent():
    with llm_server() as server:
        (reply,) = ask(server, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
        sent = server.requests[0]
    assert (reply.tokens_in, reply.tokens_out, reply.is_cut) == (100, 50, False)
    assert (sent["model"], sent["seed"], sent["temperature"], sent["max_tokens"]) == ("tiny", 3, 0.5, 77)
    assert sent["response_format"]["json_schema"] == {"name": "reply", "strict": True, "schema": writer_schema(1)}
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert server.headers[0]["authorization"] == "Bearer none"


def test_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with llm_server() as server:
        ask(server, api_key_env="MY_KEY")
        assert server.headers[0]["authorization"] == "Bearer secret"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EndpointError, match="needs a key"):
        OpenAIModel("tiny", base_url=None, timeout_s=1)


def refusing(field, *, kind=None, status=400, names_it=True):
    """Refuse a parameter, as servers do that do not know it; ``kind``: only that type of response_format."""

    def behave(server, handler, request, number):
        if field in request and (kind is None or request[field]["type"] in kind):
            return error(handler, status, f"unsupported field: {field}" if names_it else "bad request")
        return False

    return behave


@pytest.mark.parametrize(
    ("behave", "sent_at_last"),
    [
        (refusing("response_format", kind=["json_schema"]), {"response_format": {"type": "json_object"}}),
        (refusing("response_format"), {"response_format": None}),
        (refusing("response_format", names_it=False), {"response_format": None}),
        (refusing("response_format", status=500), {"response_format": None}),
        (refusing("response_format", status=422), {"response_format": None}),
        (refusing("seed"), {"seed": None, "temperature": 0.5}),
        (refusing("temperature"), {"seed": 3, "temperature": None}),
        (refusing("max_tokens"), {"max_tokens": None, "max_completion_tokens": 77}),
    ],
)
def test_a_refused_parameter_is_left_out_from_then_on(behave, sent_at_last):
    with llm_server(behave) as server:
        ask(server, question(), question(seed=4))
        first, second = server.requests[:-1], server.requests[-1]
    assert all("seed" not in sent_at_last or sent["seed"] == 3 for sent in first[:1])
    expected = sent_at_last | ({"seed": 4} if sent_at_last.get("seed") else {})
    assert {name: second.get(name) for name in expected} == expected
    # The second question was not refused once more.
    assert len(server.requests) <= 4


def test_a_model_without_system_role():
    def behave(server, handler, request, number):
        has_system = any(message["role"] == "system" for message in request["messages"])
        return has_system and error(handler, 400, "System role not supported")

    with llm_server(lambda *request: behave(*request) or send(request[1], completion("{}"))) as server:
        ask(server, question(), question(seed=4))
        assert len(server.requests) == 3
        (message,) = server.requests[-1]["messages"]
        assert server.requests[-1]["response_format"]["type"] == "json_schema"
    assert message["content"].startswith("Type of prompt: simple")
    assert json.loads(message["content"].split("The data:\n")[1]) == question().data


def test_a_question_refused_for_its_content_does_not_cost_the_others_the_schema():
    def behave(server, handler, request, number):
        return "bad" in request["messages"][1]["content"] and error(handler, 400, "flagged by the filter")

    async def run(server):
        model = OpenAIModel("tiny", base_url=server.base_url, timeout_s=5)
        with pytest.raises(QuestionRefused, match="flagged"):
            await model.ask(question(data={"items": [{"category": "bad"}]}))
        await model.ask(question())
        await model.close()

    with llm_server(behave) as server:
        asyncio.run(run(server))
        assert server.requests[-1]["response_format"]["type"] == "json_schema"


def test_retry_after_is_passed_on():
    def behave(server, handler, request, number):
        return error(handler, 429, headers=[("Retry-After", "7")])

    with llm_server(behave) as server, pytest.raises(TemporaryFailure) as failure:
        ask(server)
    assert (failure.value.kind, failure.value.wait_s) == ("status 429", 7.0)


def test_no_server():
    with llm_server() as server:
        pass
    started = time.monotonic()
    with pytest.raises(TemporaryFailure, match="connection"):
        ask(server)
    assert time.monotonic() - started < 5
