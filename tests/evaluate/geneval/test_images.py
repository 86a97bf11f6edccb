"""GenEval's score of pictures in any folder: the same as of its own layout, whatever files are called."""

import random
from dataclasses import replace

import pytest
from tests.evaluate.geneval.squares import BENCH_SQUARE, CASES, PROMPTS, RIGHT, Paint, Squares, picture

from latent2pixel.errors import DataError
from latent2pixel.evaluate.geneval.images import judge_images, lay_out
from latent2pixel.evaluate.geneval.layout import read_prompt_folders, save_sample, write_prompt_folders
from latent2pixel.evaluate.geneval.score import score_geneval
from latent2pixel.io.images import save_image

SEEDS = (900, 7)
"""In no order: a picture's seed says nothing about its place."""


@pytest.fixture
def images(tmp_path):
    """Two pictures of each prompt under shuffled names, as many of them right as ``RIGHT`` says."""
    names = [f"shard-{number % 2}/{number}.png" for number in range(2 * len(PROMPTS))]
    random.Random(1).shuffle(names)
    found = {}
    for index, prompt in enumerate(PROMPTS):
        _, right, wrong, _ = CASES[prompt.task]
        for sample, seed in enumerate(SEEDS):
            path = tmp_path / "drawn" / names.pop()
            save_image(path, picture(*(right if sample < RIGHT[index] else wrong)))
            found[prompt.prompt, seed] = path
    return found


def judge(images, folder, detector=None, **settings):
    settings = {"prompts": PROMPTS, "num_samples": 2} | settings
    return judge_images(images, folder=folder, detector=detector or Squares(), colours=Paint(), **settings)


def test_the_score_is_that_of_the_same_pictures_in_genevals_layout(images, tmp_path):
    write_prompt_folders(tmp_path / "official", PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        _, right, wrong, _ = CASES[prompt.task]
        for sample in (0, 1):
            image = picture(*(right if sample < RIGHT[index] else wrong))
            save_sample(tmp_path / "official", image, prompt_index=index, sample_index=sample)
    official = score_geneval(tmp_path / "official", Squares(), Paint(), num_samples=2)
    judgement = judge(images, tmp_path / "judged")
    for key in ("key", "score", "standard_error", "num_images", "num_missing", "missing"):
        assert judgement.record[key] == official.as_record()[key], key
    assert judgement.record["tasks"] == official.as_record()["tasks"]


def test_every_picture_has_its_own_verdict(images, tmp_path):
    scores = judge(images, tmp_path / "judged").scores
    assert scores.keys() == images.keys()
    for index, prompt in enumerate(PROMPTS):
        for sample, seed in enumerate(SEEDS):
            found = scores[prompt.prompt, seed]
            right = sample < RIGHT[index]
            assert found.score == right
            assert found.task == f"geneval-format/{prompt.task}"
            assert found.reason == ("" if right else CASES[prompt.task][3])
            assert found.file == images[prompt.prompt, seed]


def test_a_second_call_looks_at_what_changed_alone(images, tmp_path):
    judge(images, tmp_path / "judged")
    again = Squares()
    assert judge(images, tmp_path / "judged", again).scores == judge(images, tmp_path / "judged").scores
    assert again.seen == 0
    path = images[PROMPTS[0].prompt, SEEDS[0]]
    path.unlink()
    save_image(path, picture(BENCH_SQUARE, ("cat", "red", 20, 20)))
    judge(images, tmp_path / "judged", again)
    assert again.seen == 1


def test_a_killed_judge_goes_on(images, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        judge(images, tmp_path / "judged", Squares(fails_after=10))
    rest = Squares()
    killed = judge(images, tmp_path / "judged", rest)
    assert rest.seen == 24 - 10
    assert killed == judge(images, tmp_path / "whole")


def test_what_is_missing_or_broken_is_told_and_not_scored(images, tmp_path):
    gone, broken = (PROMPTS[3].prompt, 7), (PROMPTS[5].prompt, 900)
    path = images[broken]
    path.write_bytes(path.read_bytes()[:60])
    judgement = judge({key: path for key, path in images.items() if key != gone}, tmp_path / "judged")
    assert list(judgement.broken) == [broken]
    assert broken not in judgement.scores
    assert judgement.record["missing"] == ("00003/samples: 1 of 2 pictures",)
    assert judgement.record["num_images"] == 22


def test_a_picture_that_is_gone_leaves_no_trace_in_the_layout(images, tmp_path):
    lay_out(images, PROMPTS, tmp_path / "images")
    lay_out({key: path for key, path in images.items() if key[1] == 7}, PROMPTS, tmp_path / "images")
    assert [len(part.images) for part in read_prompt_folders(tmp_path / "images")] == [1] * len(PROMPTS)


def test_pictures_of_a_prompt_are_numbered_by_their_seeds(images, tmp_path):
    places = lay_out(images, PROMPTS, tmp_path / "images")
    assert places["00001/samples/00000.png"] == (PROMPTS[1].prompt, 7)
    assert places["00001/samples/00001.png"] == (PROMPTS[1].prompt, 900)
    for place, key in places.items():
        assert (tmp_path / "images" / place).read_bytes() == images[key].read_bytes()


def test_other_prompts_and_doubled_ones_are_refused(images, tmp_path):
    with pytest.raises(DataError, match="no prompt of this benchmark") as error:
        judge(images, tmp_path / "judged", prompts=PROMPTS[1:])
    assert "'single_object 0'" in error.value.found
    with pytest.raises(DataError, match="twice"):
        judge(images, tmp_path / "judged", prompts=[*PROMPTS, replace(PROMPTS[1], task="counting")])
    with pytest.raises(DataError, match="more pictures than it should"):
        judge(images, tmp_path / "judged", num_samples=1)
