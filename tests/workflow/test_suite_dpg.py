"""DPG-Bench as a suite: drawn, composed, judged by a model behind a real socket; what is missing is told first."""

import pytest
from tests.evaluate.dpg.small_bench import write_bench
from tests.tiny.llm_server import completion, llm_server, send

from latent2pixel.errors import CheckpointError, ConfigError, DataError
from latent2pixel.io.records import read_records
from latent2pixel.workflow.evaluation_config import EvaluationConfig
from latent2pixel.workflow.side_by_side import evaluate

SIZES = {"suite": "dpg", "image_size_px": 32, "num_steps": 1}


@pytest.fixture
def table(tmp_path):
    return str(write_bench(tmp_path / "bench"))


def says_yes(server, handler, request, number):
    return send(handler, completion('{"answer": "yes"}'))


def test_both_models_are_drawn_and_asked_about(tiny_models, table, tmp_path):
    with llm_server(says_yes) as server:
        settings = {"dpg_judge": "vlm", "vlm_model": "Some/Model-7B", "vlm_base_url": server.base_url}
        config = EvaluationConfig(prompts=table, **SIZES, **settings)
        result = evaluate(*tiny_models, tmp_path / "out", config=config)
        asked = len(server.requests)
        assert evaluate(*tiny_models, tmp_path / "out", config=config) == result
        assert len(server.requests) == asked
    assert asked == 2 * 4 * 6  # two models, four pictures, six questions
    assert result["tasks"]["dpg/corrected"]["retention"]["value"] == 1
    record = result["judges"]["pixel"]
    assert record["key"] == "dpg-format/vlm-Some-Model-7B/corrected"
    assert record["official"]["score"] == record["corrected"]["score"] == 100
    assert len(read_records(tmp_path / "out" / "pairs.jsonl")) == 12


@pytest.mark.parametrize(
    ("settings", "error", "command"),
    [
        ({"prompts": None}, DataError, "mkdir -p dpg && curl -fL https://codeload.github.com"),
        ({"seeds_per_prompt": 3}, ConfigError, "4"),
        ({"mplug_python": "PYTHON"}, CheckpointError, "modelscope download --model damo/mplug"),
        ({"mplug_python": "no-such/python"}, ConfigError, "docs/dpg-bench.md"),
        ({"dpg_judge": "vlm"}, ConfigError, "vlm_model"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_drawn(
    tiny_models, table, tmp_path, monkeypatch, settings, error, command
):
    import sys

    monkeypatch.chdir(tmp_path)
    settings = {key: sys.executable if value == "PYTHON" else value for key, value in settings.items()}
    with pytest.raises(error) as caught:
        evaluate(*tiny_models, tmp_path / "out", config=EvaluationConfig(**{**SIZES, "prompts": table, **settings}))
    assert command in caught.value.fix
    assert not (tmp_path / "out").exists()
