"""A model behind an endpoint as judge: a server on a real socket that decodes the picture and looks for the colour."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluate.dpg.small_bench import ColourJudge, asks, picture, save_grid, sees, small_bench
from tests.tiny.llm_server import completion, error, llm_server, send

from latent2pixel.data.prompting.openai_model import OpenAIModel
from latent2pixel.data.prompting.settings import AskSettings
from latent2pixel.errors import EndpointError, StateError
from latent2pixel.evaluate.dpg.score import score_dpg
from latent2pixel.workflow.vlm_judge import INSTRUCTIONS, VLMJudge

FAST = AskSettings(backoff_s=0.01, timeout_s=5.0, retries=2, attempts=2, stop_after=3, concurrency=4)


def seen(request):
    """What the model is shown and asked: image of sRGB bytes, shape (3, H, W), and question."""
    shown, told = request["messages"][-1]["content"]
    kind, content = shown["image_url"]["url"].split(",")
    assert (shown["type"], told["type"], kind) == ("image_url", "text", "data:image/png;base64")
    image = np.array(Image.open(io.BytesIO(base64.b64decode(content))))
    return torch.from_numpy(image).permute(2, 0, 1), json.loads(told["text"].split("The data:\n")[-1])["question"]


def looks(server, handler, request, number):
    image_CHW, question = seen(request)
    return send(handler, completion(json.dumps({"answer": "yes" if sees(image_CHW, question) else "no"})))


def says(reply):
    return lambda server, handler, request, number: send(handler, completion(reply))


def judge_of(server, folder, *, model="Some/Model-7B", settings=FAST):
    return VLMJudge(
        OpenAIModel(model, base_url=server.base_url, timeout_s=5), folder / "replies.jsonl", settings=settings
    )


@pytest.fixture
def bench(tmp_path):
    return small_bench(tmp_path / "bench")


@pytest.fixture
def folder(tmp_path):
    save_grid(tmp_path / "grids", "plain1", ("red", "green"), ("red", "blue"), (), ("red", "green", "blue"))
    save_grid(tmp_path / "grids", "7", ("blue",), (), (), ())
    return tmp_path / "grids"


def test_every_picture_is_asked_every_question(tmp_path):
    with llm_server(looks) as server, judge_of(server, tmp_path) as judge:
        images = [picture("red"), picture("green", "blue")]
        assert judge.answer(images, [asks("red"), asks("blue")]) == [["yes", "no"], ["no", "yes"]]
        assert len(server.requests) == 4
        sent = server.requests[0]
    assert sent["messages"][0] == {"role": "system", "content": INSTRUCTIONS}
    assert (sent["temperature"], sent["max_tokens"]) == (0.0, FAST.max_tokens)
    assert sent["response_format"]["json_schema"]["schema"]["properties"]["answer"]["enum"] == ["yes", "no"]


def test_a_folder_is_scored_under_a_key_of_its_own(folder, bench, tmp_path):
    with llm_server(looks) as server, judge_of(server, tmp_path) as judge:
        result = score_dpg(folder, judge, bench=bench)
    expected = score_dpg(folder, ColourJudge(), bench=bench)
    assert result.corrected.score == expected.corrected.score == 100 * (2 / 4 + 1 / 4) / 2
    assert result.official.key == "dpg-format/vlm-Some-Model-7B/official"
    assert result.judge["model"] == "Some/Model-7B"
    assert len(result.judge["instructions"]) == 64


def test_no_reply_is_paid_for_twice(folder, bench, tmp_path):
    """The server fails after five questions, and comes back."""

    def breaks(server, handler, request, number):
        return error(handler, 500) if number >= 5 else looks(server, handler, request, number)

    with llm_server(breaks) as server, judge_of(server, tmp_path) as judge:
        with pytest.raises(EndpointError, match="does not answer"):
            score_dpg(folder, judge, bench=bench)
        paid = [json.dumps(request["messages"]) for request in server.requests[:5]]
    with llm_server(looks) as server, judge_of(server, tmp_path) as judge:
        result = score_dpg(folder, judge, bench=bench)
        later = [json.dumps(request["messages"]) for request in server.requests]
    assert not set(paid) & set(later)
    # Grid 7: blue and black about blue; plain1: four pictures about three colours, black about blue among them.
    assert len(set(paid) | set(later)) == 13
    assert (result.num_images, result.unanswered) == (2, ())
    whole = score_dpg(folder, ColourJudge(), bench=bench)
    assert result.corrected.score == whole.corrected.score


def test_the_same_question_about_another_picture_is_asked(tmp_path):
    with llm_server(looks) as server, judge_of(server, tmp_path) as judge:
        assert judge.answer([picture("red")], [asks("red")]) == [["yes"]]
        assert judge.answer([picture("blue")], [asks("red")]) == [["no"]]
        assert judge.answer([picture("red")], [asks("red")]) == [["yes"]]
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ('{"answer": "yes"}', "yes"),
        ('{"answer": "No"}', "no"),
        ('<think>Is it {"answer": "no"}?</think>```json\n{"answer": "yes"}\n```', "yes"),
        ("Yes.", "yes"),
        (" no\n", "no"),
        ("Yes, there is no red.", None),
        ('{"answer": "maybe"}', None),
        ('{"answer": true}', None),
        ('{"verdict": "yes"}', None),
        ('["yes"]', None),
        ('{"answer": ', None),
        ("I'm sorry, I cannot look at this.", None),
        ("", None),
    ],
)
def test_replies_are_yes_or_no_or_none(tmp_path, reply, answer):
    with llm_server(says(reply)) as server, judge_of(server, tmp_path) as judge:
        assert judge.answer([picture("red")], [asks("red")]) == [[answer]]
        assert len(server.requests) == (1 if answer else FAST.attempts)
        assert judge.usage.unusable == (0 if answer else FAST.attempts)


def test_a_question_that_the_server_refuses_leaves_its_picture_open(folder, bench, tmp_path):
    def refuses(server, handler, request, number):
        if seen(request)[1] == asks("green"):
            return error(handler, 403, "not about green")
        return looks(server, handler, request, number)

    settings = AskSettings(backoff_s=0.01, timeout_s=5.0, stop_after=100)
    with llm_server(refuses) as server, judge_of(server, tmp_path, settings=settings) as judge:
        result = score_dpg(folder, judge, bench=bench)
    assert result.unanswered == ("plain1.png: 4 of 12 questions",)
    assert (result.num_images, result.corrected.score) == (1, 25.0)


def test_servers_without_a_system_role_get_picture_and_instructions_together(tmp_path):
    def knows_no_system(server, handler, request, number):
        if request["messages"][0]["role"] == "system":
            return error(handler, 400, "the system role is not supported")
        return looks(server, handler, request, number)

    with llm_server(knows_no_system) as server, judge_of(server, tmp_path) as judge:
        assert judge.answer([picture("red")], [asks("red")]) == [["yes"]]
        (message,) = server.requests[-1]["messages"]
    assert message["content"][1]["text"].startswith(INSTRUCTIONS)


def test_two_judges_do_not_write_into_one_file(tmp_path):
    with llm_server(looks) as server, judge_of(server, tmp_path), pytest.raises(StateError, match="Another process"):
        judge_of(server, tmp_path)
