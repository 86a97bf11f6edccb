"""Scoring whole folders: by a detector of plain coloured squares, and by the tiny networks."""

import json
import random
import shutil
from pathlib import Path

import pytest
from tests.evaluate.geneval.squares import BENCH_SQUARE, CASES, PROMPTS, RIGHT, Paint, Squares, picture
from tests.tiny.judges import save_clip, save_mask2former

from latent2pixel.errors import DataError
from latent2pixel.evaluate.geneval.colours import load_colours
from latent2pixel.evaluate.geneval.detector import load_detector
from latent2pixel.evaluate.geneval.layout import sample_path, save_sample, write_prompt_folders
from latent2pixel.evaluate.geneval.names import TASKS
from latent2pixel.evaluate.geneval.score import result_key, score_geneval
from latent2pixel.evaluate.geneval.six_tasks import load_six_tasks

KEY = "geneval-format/squares"
RESULTS = "geneval-format-squares.jsonl"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    write_prompt_folders(folder, PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        _, right, wrong, _ = CASES[prompt.task]
        for sample in (0, 1):
            image = picture(*(right if sample < RIGHT[index] else wrong))
            save_sample(folder, image, prompt_index=index, sample_index=sample)
    return folder


def score(folder, detector=None, **settings):
    return score_geneval(folder, detector or Squares(), Paint(), **{"num_samples": 2, **settings})


def test_six_tasks_by_hand(folder):
    result = score(folder)
    shares = [(RIGHT[index] + RIGHT[index + 1]) / 4 for index in range(0, 12, 2)]
    assert {task: mean.score for task, mean in result.tasks.items()} == dict(zip(TASKS, shares, strict=True))
    assert result.score == pytest.approx(sum(shares) / 6, rel=1e-12)
    # Two prompts a task: the standard error of their means a and b is |a - b| / 2.
    errors = [abs(RIGHT[index] - RIGHT[index + 1]) / 4 for index in range(0, 12, 2)]
    assert result.standard_error == pytest.approx(sum(error**2 for error in errors) ** 0.5 / 6, rel=1e-12)
    assert (result.key, result.num_images, result.num_missing) == (KEY, 24, 0)
    assert (result.missing, result.broken, result.ignored) == ((), (), ())
    assert json.loads(json.dumps(result.as_record()))["tasks"]["counting"]["num_prompts"] == 2


def test_one_line_a_picture_with_its_reason(folder):
    score(folder)
    lines = [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]
    assert [line["image"] for line in lines[:3]] == [
        "00000/samples/00000.png",
        "00000/samples/00001.png",
        "00001/samples/00000.png",
    ]
    for line in lines:
        assert line["reasons"] == ([] if line["correct"] else [CASES[line["task"]][3]])
    assert lines[0]["found"] == {"bench": [[2.0, 2.0, 8.0, 8.0, 0.95]]}
    assert [path.name for path in folder.glob("*.jsonl*")] == [RESULTS]


def test_the_order_on_the_disk_does_not_matter(folder, tmp_path):
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    random.Random(0).shuffle(files)
    for path in files:
        target = tmp_path / "shuffled" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, target)
    first, second = score(folder), score(tmp_path / "shuffled")
    assert (folder / RESULTS).read_bytes() == (tmp_path / "shuffled" / RESULTS).read_bytes()
    assert {**first.as_record(), "results": ""} == {**second.as_record(), "results": ""}


def test_missing_and_broken_pictures_are_named_and_not_scored(folder):
    whole = score(folder).tasks
    sample_path(folder, 0, 1).unlink()
    cut = sample_path(folder, 2, 0)
    cut.write_bytes(cut.read_bytes()[:60])
    sample_path(folder, 4, 1).write_text("no picture")
    sample_path(folder, 5, 0).unlink()
    sample_path(folder, 5, 0).symlink_to("nowhere.png")
    sample_path(folder, 6, 0).unlink()
    sample_path(folder, 6, 0).mkdir()
    (folder / "00003" / "samples" / "0.jpg").touch()
    shutil.rmtree(folder / "00008")
    result = score(folder)
    assert result.missing == ("00000/samples: 1 of 2 pictures", "00008: no folder")
    assert (result.num_missing, result.num_images) == (3, 24 - 3 - 4)
    names = ["00002/samples/00000.png", "00004/samples/00001.png", "00005/samples/00000.png", "00006/samples/00000.png"]
    assert [entry.split(": ")[0] for entry in result.broken] == names
    assert result.ignored == ("00003/samples/0.jpg",)
    assert result.tasks["single_object"].score == 1 / 3
    assert result.tasks["position"].num_prompts == 1
    assert result.standard_error is None
    assert result.tasks["color_attr"] == whole["color_attr"]
    # Made again, they count.
    save_sample(folder, picture(BENCH_SQUARE), prompt_index=0, sample_index=1)
    assert score(folder).tasks["single_object"].num_images == 4


def test_a_task_without_pictures_leaves_no_score(folder):
    for index in (2, 3):
        shutil.rmtree(folder / f"{index:05d}" / "samples")
    result = score(folder)
    assert (result.score, result.standard_error, result.num_missing) == (None, None, 4)
    assert set(result.tasks) == set(TASKS) - {"two_object"}


@pytest.mark.parametrize("done", [0, 1, 11, 23])
@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_run_goes_on_where_it_stopped(folder, tmp_path, done, torn):
    copy = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(KeyboardInterrupt):
        score(folder, Squares(fails_after=done))
    journal = folder / f"{RESULTS}.journal"
    assert not (folder / RESULTS).exists()
    assert len(journal.read_text().splitlines() if journal.exists() else []) == done
    if torn and done:
        # A machine that stops in the middle of a write.
        journal.write_bytes(journal.read_bytes()[:-7])
    rest = Squares()
    result = score(folder, rest)
    assert rest.seen == 24 - done + (torn and done > 0)
    assert not journal.exists()
    assert {**result.as_record(), "results": ""} == {**score(copy).as_record(), "results": ""}
    assert (folder / RESULTS).read_bytes() == (copy / RESULTS).read_bytes()


def test_only_what_changed_is_scored_again(folder):
    score(folder)
    again = Squares()
    score(folder, again)
    assert again.seen == 0
    save_sample(folder, picture(), prompt_index=0, sample_index=0)
    result = score(folder, again)
    assert again.seen == 1
    assert result.tasks["single_object"].score == 0
    record = PROMPTS[2].as_record() | {"include": [{"class": "cat", "count": 1}]}
    (folder / "00002" / "metadata.jsonl").write_text(json.dumps(record))
    score(folder, again)
    assert again.seen == 3  # both pictures of that prompt


def test_records_of_another_detector_are_not_taken_over(folder, tmp_path):
    results = tmp_path / "there" / "results.jsonl"
    score(folder, results=results)
    other = Squares(name="other")
    assert score(folder, other, results=results).detector == {"name": "other"}
    assert other.seen == 24


def test_more_pictures_than_there_should_be_are_refused(folder):
    with pytest.raises(DataError, match="more pictures than it should") as error:
        score(folder, num_samples=1)
    assert error.value.found == "2 in 00000"


def test_progress_counts_pictures(folder):
    told = []
    score(folder, on_image=lambda done, of: told.append((done, of)))
    assert told == [(number, 24) for number in range(1, 25)]


def test_the_key_names_prompts_detector_and_an_unusual_classifier():
    own, detector, paint = load_six_tasks(), Squares(), Paint()
    assert result_key(own, detector, paint) == "l2p-six-tasks/squares"
    assert result_key(own[:-1], detector, paint) == "geneval-format/squares"
    paint.name = "paint"
    assert result_key(own, detector, paint) == "l2p-six-tasks/squares+paint"


def test_tiny_networks_score_a_folder(folder, tmp_path):
    detector = load_detector(save_mask2former(tmp_path / "m2f", sees="bench"), short_side_px=64, long_side_px=107)
    colours = load_colours(save_clip(tmp_path / "clip"))
    result = score_geneval(folder, detector, colours, num_samples=2)
    assert result.key == f"geneval-format/{detector.name}+{colours.name}"
    assert result.tasks["single_object"].score == 1  # it sees benches everywhere
    assert result.tasks["two_object"].score == 0
    lines = [json.loads(line) for line in Path(result.results).read_text().splitlines()]
    reasons = [line["reasons"] for line in lines if line["task"] == "colors" and not line["correct"]]
    assert len(reasons) == 4 or result.tasks["colors"].score > 0
    assert all("1 of bench in red wanted, 1 " in reason[0] for reason in reasons)
    assert result.detector["weights"] != result.colours["weights"]
