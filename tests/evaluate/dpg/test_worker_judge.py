"""The judge in a process of its own: the script that ships, with small packages under the names that it imports.

The packages look at pictures for colours; the real ones need an environment and weights that no test can have.
"""

import ast
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.evaluate.dpg.small_bench import ColourJudge, asks, picture, save_grid, small_bench

from latent2pixel.errors import CheckpointError, ConfigError, EndpointError
from latent2pixel.evaluate.dpg import mplug_worker
from latent2pixel.evaluate.dpg.score import score_dpg
from latent2pixel.evaluate.dpg.worker_judge import WorkerJudge, start_mplug

LOOK = """
import os
import sys

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def look(model, picture, question):
    print("a library's word on stdout")
    os.system("echo and one of a child")
    if "die" in question:
        os._exit(3)
    if "fail" in question:
        raise RuntimeError("out of memory")
    if not os.path.isfile(os.path.join(model, "weights.bin")):
        raise FileNotFoundError(model)
    assert picture.size == (8, 8), picture.size
    colour = COLOURS[question.split()[-1].rstrip("?")]
    found = any(picture.convert("RGB").getpixel((x, y)) == colour for x in range(8) for y in range(8))
    return "yes" if found else "no"
"""
MODELSCOPE = """
from look import look
from modelscope.utils.constant import Tasks


def pipeline(task, model, device):
    assert task == Tasks.visual_question_answering and device == "cpu"
    return lambda asked: {"text": look(model, asked["image"], asked["question"])}
"""
DPG_EVALUATOR = """
from look import look


class MPLUG:
    def __init__(self, model_dir=None, device="cuda"):
        self.model_dir = model_dir

    def vqa(self, image, question):
        return look(self.model_dir, image, question)
"""


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "weights.bin").write_bytes(b"some weights")
    return tmp_path / "weights"


@pytest.fixture
def python():
    return Path(sys.executable)


@pytest.fixture(autouse=True)
def packages(tmp_path, monkeypatch):
    folder = tmp_path / "packages"
    for name, content in {
        "look.py": LOOK,
        "dpg_evaluator.py": DPG_EVALUATOR,
        "modelscope/__init__.py": "",
        "modelscope/pipelines.py": MODELSCOPE,
        "modelscope/utils/__init__.py": "",
        "modelscope/utils/constant.py": 'class Tasks:\n    visual_question_answering = "vqa"\n',
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.mark.parametrize("backend", ["modelscope", "dpg_evaluator"])
def test_both_backends_answer_about_every_picture(python, weights, backend):
    with start_mplug(python, weights, backend=backend) as judge:
        images = [picture("red"), picture("green", "blue")]
        assert judge.answer(images, [asks("red"), asks("blue")]) == [["yes", "no"], ["no", "yes"]]
        assert judge.answer(images[:1], [asks("green")]) == [["no"]]
        record = judge.as_record()
    assert (judge.name, record["name"], record["backend"]) == (f"mplug-{backend}", f"mplug-{backend}", backend)
    assert record["versions"]["torch"] != "unknown"
    assert record["versions"][backend] == "unknown"  # a plain folder has no version


def test_the_record_tells_weights_apart_and_not_cards(python, weights):
    def record(device="cpu"):
        with start_mplug(python, weights, backend="dpg_evaluator", device=device) as judge:
            return judge.as_record()

    first = record()
    (weights / ".cache").mkdir()
    (weights / ".cache" / "note").write_text("of a downloader")
    assert record() == first
    assert record("cuda:1") == record("cuda:0") != first
    (weights / "weights.bin").write_bytes(b"other weights")
    assert record()["weights"] != first["weights"]


def test_a_folder_is_scored_as_by_a_judge_of_this_process(python, weights, tmp_path):
    bench, folder = small_bench(tmp_path / "bench"), tmp_path / "grids"
    save_grid(folder, "plain1", ("red", "green"), ("red", "blue"), (), ("red", "green", "blue"))
    save_grid(folder, "7", ("blue",), (), (), ())
    with start_mplug(python, weights) as judge:
        result = score_dpg(folder, judge, bench=bench)
    assert result.official.key == "dpg-format/mplug-modelscope/official"
    expected = score_dpg(folder, ColourJudge(), bench=bench)
    assert result.corrected.score == expected.corrected.score == 100 * (2 / 4 + 1 / 4) / 2


def test_a_process_that_dies_is_told_and_the_next_call_goes_on(python, weights, tmp_path):
    bench, folder = small_bench(tmp_path / "bench"), tmp_path / "grids"
    for item in ("7", "plain1"):
        save_grid(folder, item, ("red",), (), (), ())
    with start_mplug(python, weights) as judge:

        def kill(done, _):
            os.kill(judge._process.pid, signal.SIGKILL)

        with pytest.raises(EndpointError, match="The judge's process has ended") as error:
            score_dpg(folder, judge, bench=bench, on_image=kill)
    assert "what was judged is kept" in error.value.fix
    told = (folder / "dpg-format-mplug-modelscope.jsonl.journal").read_text().splitlines()
    assert [json.loads(line)["image"] for line in told] == ["7.png"]
    with start_mplug(python, weights) as judge:
        assert score_dpg(folder, judge, bench=bench).num_images == 2
        assert judge._number == 1


@pytest.mark.parametrize(
    ("question", "what", "found"),
    [("die", "has ended", "exit code 3"), ("fail", "does not answer", "RuntimeError: out of memory")],
)
def test_failures_repeat_the_process_last_words(python, weights, question, what, found):
    with start_mplug(python, weights) as judge:
        with pytest.raises(EndpointError, match=f"The judge's process {what}") as error:
            judge.answer([picture("red")], [question])
        assert found in error.value.found
        assert "a library's word on stdout" in error.value.found
        with pytest.raises(EndpointError, match="has ended"):
            judge.answer([picture("red")], [asks("red")])


def test_a_missing_package_or_network_stops_before_anything_is_asked(python, weights, packages):
    (packages / "dpg_evaluator.py").unlink()
    with pytest.raises(EndpointError, match="has ended") as error:
        start_mplug(python, weights, backend="dpg_evaluator")
    assert "No module named 'dpg_evaluator'" in error.value.found


@pytest.mark.parametrize(
    ("backend", "command"),
    [
        ("modelscope", "modelscope download --model damo/mplug_visual-question-answering_coco_large_en --local_dir"),
        ("dpg_evaluator", "hf download diffusion-bench/mplug_visual-question-answering_coco_large_en --local-dir"),
    ],
)
def test_missing_weights_give_the_command_that_downloads_them(python, tmp_path, backend, command):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "gone", tmp_path / "empty"):
        with pytest.raises(CheckpointError, match="weights of the judge mPLUG are missing") as error:
            start_mplug(python, folder, backend=backend)
        assert f"{command} {folder}`" in error.value.fix


def test_a_missing_environment_is_told(weights, tmp_path):
    with pytest.raises(ConfigError, match="environment of the judge mPLUG is missing"):
        start_mplug(tmp_path / "bin" / "python", weights)
    with pytest.raises(ConfigError, match="cannot be started"):
        WorkerJudge([str(weights / "weights.bin")], name="x", facts={})


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("print('hello', flush=True); input()", "does not speak JSON"),
        ("print('[1]', flush=True); input()", "does not speak JSON"),
        ("print('{\"protocol\": 2}', flush=True); input()", "speaks another protocol"),
        ("input()", "says nothing"),
    ],
)
def test_another_program_is_not_taken_for_a_judge(script, what):
    wait_s = 0.3 if what == "says nothing" else 60.0
    with pytest.raises(EndpointError, match=f"The judge's process {what}"):
        WorkerJudge([sys.executable, "-c", script], name="x", facts={}, start_s=wait_s)


ANSWERS = """
import json, sys
print(json.dumps({{"protocol": 1}}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps({reply}), flush=True)
"""


@pytest.mark.parametrize(
    "reply",
    [
        "{'id': asked['id'] + 1, 'answers': [['yes', 'no']]}",
        "{'id': asked['id'], 'answers': [['yes']]}",
        "{'id': asked['id'], 'answers': [['yes', 'no'], ['yes', 'no']]}",
        "{'id': asked['id'], 'answers': [['yes', None]]}",
        "{'id': asked['id'], 'answers': ['yes', 'no']}",
        "{'id': asked['id']}",
    ],
)
def test_answers_that_do_not_fit_the_questions_are_refused(reply):
    command = [sys.executable, "-c", ANSWERS.format(reply=reply)]
    with WorkerJudge(command, name="x", facts={}) as judge, pytest.raises(EndpointError, match="does not answer"):
        judge.answer([picture("red")], ["one", "two"])


def test_a_process_that_hangs_is_given_up_and_ended():
    script = "print('{\"protocol\": 1}', flush=True); import time; time.sleep(600)"
    with WorkerJudge([sys.executable, "-c", script], name="x", facts={}, answer_s=0.2) as judge:
        with pytest.raises(EndpointError, match="says nothing") as error:
            judge.answer([picture("red")], ["one"])
        assert error.value.found.startswith("no line within 0.2 s")
    assert judge._process.returncode == -signal.SIGKILL


def test_the_script_keeps_to_what_its_environment_has():
    """Python 3.8, the standard library and Pillow; the judge's packages by name, where they are used."""
    tree = ast.parse(Path(mplug_worker.__file__).read_text(), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"PIL"}
