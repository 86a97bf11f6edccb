"""Every clause of the scoring, by hand."""

import numpy as np
import pytest

from latent2pixel.evaluate.geneval.clauses import Detection, judge_detections, keep
from latent2pixel.evaluate.geneval.prompts import Clause, GenEvalPrompt


def detection(name="bench", score=0.95, x=0.0, y=0.0, side=10.0) -> Detection:
    return Detection(class_name=name, score=score, box=(x, y, x + side, y + side), mask_HW=np.ones((1, 1), bool))


def prompt(*include: Clause, task="two_object", exclude=()) -> GenEvalPrompt:
    return GenEvalPrompt(task=task, prompt="a prompt", include=include, exclude=tuple(exclude))


def never(objects, class_name):
    raise AssertionError("no clause named a colour")


def judge(detections, wanted, colours_of=never):
    return judge_detections(keep(detections, task=wanted.task), wanted, colours_of=colours_of)


BENCH, CAT = Clause(class_name="bench", count=1), Clause(class_name="cat", count=1)


@pytest.mark.parametrize(
    ("task", "score", "kept"),
    [
        ("single_object", 0.3, False),
        ("single_object", 0.3001, True),
        ("colors", 0.3001, True),
        ("counting", 0.3001, False),
        ("counting", 0.9, False),
        ("counting", 0.9001, True),
    ],
)
def test_thresholds_are_strict(task, score, kept):
    assert bool(keep([detection(score=score)], task=task)) is kept


def test_the_sixteen_surest_of_a_class_are_kept_in_order():
    scores = [0.4 + 0.02 * index for index in range(20)]
    found = [detection(score=score) for score in scores] + [detection("cat", score=0.35)]
    kept = keep(found, task="two_object")
    assert [each.score for each in kept["bench"]] == sorted(scores, reverse=True)[:16]
    assert len(kept["cat"]) == 1


def test_equal_boxes_are_all_kept():
    assert len(keep([detection(), detection(score=0.94)], task="two_object")["bench"]) == 2


def test_all_include_clauses_must_hold():
    assert judge([detection(), detection("cat")], prompt(BENCH, CAT)).correct
    verdict = judge([detection()], prompt(BENCH, CAT))
    assert not verdict.correct
    assert verdict.reasons == ("1 of cat wanted, 0 found",)
    assert len(judge([], prompt(BENCH, CAT)).reasons) == 2


def test_counting_wants_the_number_and_no_more():
    three = prompt(Clause(class_name="bench", count=3), task="counting", exclude=[Clause(class_name="bench", count=4)])
    verdicts = {number: judge([detection()] * number, three) for number in (2, 3, 4, 5)}
    assert [number for number, verdict in verdicts.items() if verdict.correct] == [3]
    assert verdicts[2].reasons == ("3 of bench wanted, 2 found",)
    assert verdicts[5].reasons == ("fewer than 4 of bench wanted, 5 found",)
    # A fourth one that is not sure enough does not count.
    assert judge([detection()] * 3 + [detection(score=0.9)], three).correct


def test_one_exclude_clause_of_several_is_enough_to_fail():
    wanted = prompt(BENCH, exclude=[Clause(class_name="dog", count=1), Clause(class_name="cat", count=1)])
    assert judge([detection()], wanted).correct
    assert not judge([detection(), detection("cat")], wanted).correct


def by_score(names):
    """Colour detections by their score, and note who was asked for."""
    asked = []

    def colours_of(objects, class_name):
        asked.append((class_name, len(objects)))
        return [names[each.score] for each in objects]

    return colours_of, asked


def test_only_the_surest_objects_are_asked_for_their_colour():
    colours_of, asked = by_score({0.9: "blue", 0.8: "red"})
    red = prompt(Clause(class_name="bench", count=1, colour="red"), task="colors")
    verdict = judge([detection(score=0.8), detection(score=0.9)], red, colours_of)
    assert verdict.reasons == ("1 of bench in red wanted, 1 blue found",)
    assert asked == [("bench", 1)]


def test_as_many_objects_as_wanted_must_have_the_colour():
    colours_of, asked = by_score({0.9: "red", 0.8: "red", 0.7: "white"})
    found = [detection(score=score) for score in (0.9, 0.8, 0.7)]
    assert judge(found, prompt(Clause(class_name="bench", count=2, colour="red")), colours_of).correct
    verdict = judge(found, prompt(Clause(class_name="bench", count=3, colour="red")), colours_of)
    assert verdict.reasons == ("3 of bench in red wanted, 2 red, 1 white found",)
    assert asked == [("bench", 2), ("bench", 3)]


def test_colours_are_not_asked_for_too_few_objects():
    verdict = judge([], prompt(Clause(class_name="bench", count=1, colour="red")))
    assert verdict.reasons == ("1 of bench wanted, 0 found",)


def beside(relation, *, count=1, target=BENCH):
    return prompt(target, Clause(class_name="cat", count=count, position=(relation, 0)), task="position")


def test_position_of_the_object_relative_to_its_target():
    found = [detection(x=0), detection("cat", x=50)]
    assert judge(found, beside("right of")).correct
    verdict = judge(found, beside("left of"))
    assert verdict.reasons == ("cat wanted left of bench, found right of it",)
    same_place = judge([detection(), detection("cat")], beside("above"))
    assert same_place.reasons == ("cat wanted above bench, found neither beside, above nor below it",)


def test_one_of_two_relations_is_enough():
    found = [detection(), detection("cat", x=50, y=50)]
    assert judge(found, beside("right of")).correct
    assert judge(found, beside("below")).correct


def test_every_pair_of_object_and_target_must_stand_so():
    right = [detection(), detection("cat", score=0.9, x=50), detection("cat", score=0.8, x=60)]
    assert judge(right, beside("right of", count=2)).correct
    one_left = [detection(), detection("cat", score=0.9, x=50), detection("cat", score=0.8, x=-50)]
    assert not judge(one_left, beside("right of", count=2)).correct
    assert judge(one_left, beside("right of")).correct  # the surest one alone
    two_targets = [detection(score=0.9), detection(score=0.8, x=100), detection("cat", x=50)]
    assert not judge(two_targets, beside("right of", target=Clause(class_name="bench", count=2))).correct
    assert judge(two_targets, beside("right of")).correct


def test_a_target_that_failed_is_none():
    verdict = judge([detection("cat")], beside("right of"))
    assert verdict.reasons == (
        "1 of bench wanted, 0 found",
        "cat wanted right of a target that was not found itself",
    )
    colours_of, _ = by_score({0.95: "blue"})
    red = Clause(class_name="bench", count=1, colour="red")
    blue_bench = judge([detection(), detection("cat", x=50)], beside("right of", target=red), colours_of)
    assert len(blue_bench.reasons) == 2


def test_an_object_of_the_wrong_colour_is_not_asked_for_its_place():
    colours_of, _ = by_score({0.95: "blue"})
    both = prompt(BENCH, Clause(class_name="cat", count=1, colour="red", position=("left of", 0)))
    verdict = judge([detection(), detection("cat", x=50)], both, colours_of)
    assert verdict.reasons == ("1 of cat in red wanted, 1 blue found",)
