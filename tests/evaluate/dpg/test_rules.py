"""Every clause of the protocol by hand: what counts as yes, what a dependency does, what the official program loses."""

import pytest

from latent2pixel.evaluate.dpg.bench import DPGQuestion, corrected_items, official_items
from latent2pixel.evaluate.dpg.means import dpg_score
from latent2pixel.evaluate.dpg.rules import PictureScore, corrected_score, official_score


def questions(*parents, numbers=None, category="entity - whole"):
    """Questions with those parents, numbered from 1 or as told."""
    numbers = numbers or range(1, len(parents) + 1)
    return {
        number: DPGQuestion(item="x", number=number, parents=of, category=category, text=f"q{number}")
        for number, of in zip(numbers, parents, strict=True)
    }


def told(*samples):
    """Answers of each sample as a word of y and n, such as "yny"; any other letter is another answer."""
    words = {"y": "yes", "n": "no"}
    return [{f"q{index}": words.get(letter, letter) for index, letter in enumerate(one, 1)} for one in samples]


NONE = (0,)


@pytest.mark.parametrize(
    ("parents", "answers", "counting"),
    [
        ((NONE, NONE), "yn", 1),
        ((NONE, (1,)), "ny", 0),  # a parent at no takes its child along
        ((NONE, (1,)), "yn", 1),  # not the other way round
        ((NONE, (1,), (2,), (3,)), "nyyy", 0),  # near or far
        ((NONE, (1,), (2,), NONE), "ynyy", 2),
        ((NONE, NONE, (1, 2)), "yny", 1),  # one of two parents is enough
        ((NONE, NONE, (1, 2)), "yyy", 3),
        ((NONE, (0, 1)), "ny", 0),  # 0 among others is no parent
    ],
)
def test_zeroing_passes_on_along_dependencies(parents, answers, counting):
    asked = questions(*parents)
    expected = counting / len(parents)
    assert corrected_score(asked, told(answers)).samples == (expected,)
    assert official_score(asked, told(answers)).samples == (expected,)


@pytest.mark.parametrize("answer", ["Yes", "yes.", "YES", "yes ", "1", "red", ""])
def test_only_the_word_yes_counts(answer):
    asked = questions(NONE)
    assert corrected_score(asked, [{"q1": answer}]).samples == (0.0,)
    assert official_score(asked, [{"q1": answer}]).samples == (0.0,)


def test_a_parent_that_comes_later_is_read_before_its_own_turn_by_the_official_program():
    # 1 depends on 2, which depends on 3, which is at no: when 1 is looked at, 2 still stands at yes.
    asked = questions((2,), (3,), NONE)
    assert official_score(asked, told("yyn")).samples == (1 / 3,)
    assert corrected_score(asked, told("yyn")).samples == (0.0,)


def test_a_parent_that_is_not_there_drops_the_picture_unless_another_is_at_no_before_it():
    asked = questions((9, 2), NONE)
    assert official_score(asked, told("yy")) == "question 1 depends on question 9, which the program does not have"
    assert isinstance(official_score(asked, told("yn")), str)
    asked = questions((2, 9), NONE)
    assert official_score(asked, told("yn")).samples == (0.0,)
    assert isinstance(official_score(asked, told("yy")), str)
    # One sample of four is enough to drop the picture.
    assert isinstance(official_score(asked, told("yn", "yn", "yn", "yy")), str)
    assert corrected_score(asked, told("yy")).samples == (1.0,)


def test_dependencies_in_a_circle_need_all_of_it():
    asked = questions((2,), (1,))
    assert corrected_score(asked, told("yy", "yn", "ny")).samples == (1.0, 0.0, 0.0)


def test_categories_are_the_last_samples_raw_answers_or_all_that_counts():
    asked = questions(NONE, (1,))
    answers = told("yy", "ny")
    assert official_score(asked, answers).categories == (("entity - whole", False), ("entity - whole", True))
    assert [counts for _, counts in corrected_score(asked, answers).categories] == [True, True, False, False]


def rows(*told):
    return [DPGQuestion(item=item, number=number, parents=NONE, category="", text=text) for item, number, text in told]


def test_the_first_row_is_lost():
    table = rows(("a", 1, "p"), ("a", 2, "q"), ("b", 1, "r"))
    assert {item: list(asked) for item, asked in official_items(table).items()} == {"a": [2], "b": [1]}
    assert {item: list(asked) for item, asked in corrected_items(table).items()} == {"a": [1, 2], "b": [1]}
    assert official_items(rows(("a", 1, "p"), ("b", 1, "r"))).keys() == {"b"}


def test_an_item_in_two_blocks_keeps_the_last_one():
    table = rows(("z", 1, "lost"), ("a", 1, "p"), ("b", 1, "q"), ("a", 2, "r"))
    assert list(official_items(table)["a"]) == [2]
    assert list(corrected_items(table)["a"]) == [1, 2]


def test_a_number_twice_keeps_the_last_question_in_the_first_ones_place():
    table = rows(("z", 1, "lost"), ("a", 1, "old"), ("a", 2, "q"), ("a", 1, "new"))
    for items in (official_items(table), corrected_items(table)):
        assert [question.text for question in items["a"].values()] == ["new", "q"]


def scored(*samples, categories=()):
    return PictureScore(samples=samples, categories=categories)


def test_the_mean_is_over_prompts_however_many_questions_each_has():
    one = scored(1.0, 0.5, 1.0, 0.5, categories=(("entity - whole", True),) * 9 + (("attribute - color", False),))
    other = scored(0.0, 0.0, 0.0, 0.5, categories=(("attribute - color", True), ("attribute - size", False)))
    result = dpg_score({"one": one, "other": other}, key="k", dropped={"gone": "why"})
    # Of prompts: (75 + 12.5) / 2. Of answers it would be 10 of 12.
    assert result.score == pytest.approx(43.75, rel=1e-12)
    # Two means a and b: the standard error is |a - b| / 2.
    assert result.standard_error == pytest.approx((75 - 12.5) / 2, rel=1e-12)
    assert (result.num_prompts, result.dropped) == (2, ("gone: why",))
    assert {name: (mean.score, mean.num_answers) for name, mean in result.groups.items()} == {
        "attribute": (pytest.approx(100 / 3), 3),
        "entity": (100.0, 9),
    }
    assert {name: mean.num_answers for name, mean in result.categories.items()} == {
        "attribute - color": 2,
        "attribute - size": 1,
        "entity - whole": 9,
    }
    # A ratio: sums 0 of 1 and 1 of 2 about the mean 1/3 are off by -1/3 and 1/3.
    assert result.groups["attribute"].standard_error == pytest.approx(100 * (2 / 9 * 2) ** 0.5 / 3, rel=1e-12)
    assert result.groups["entity"].standard_error is None


def test_without_pictures_there_is_no_score():
    result = dpg_score({}, key="k", dropped={})
    assert (result.score, result.standard_error, result.groups) == (None, None, {})
    assert dpg_score({"one": scored(1.0)}, key="k", dropped={}).standard_error is None
