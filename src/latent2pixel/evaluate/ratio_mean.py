"""Shares of right answers over groups of different size, with their standard errors."""

import math
from collections.abc import Collection, Sequence


def ratio_mean(groups: Collection[Sequence[bool]]) -> tuple[float, float | None]:
    """Return the share of right answers over all groups, and its standard error over groups.

    The answers of a group are not independent, so the error is that of a ratio of sums over groups. With equally many
    answers in each it is the standard deviation of the groups' means over the root of their number.

    Args:
        groups: Answers by group, such as a prompt; one answer at least in all.

    Returns:
        Mean in [0, 1]; and its error, None for a single group.

    Source:
        Cochran, "Sampling Techniques", 3rd edition, section 2.11 (variance of a ratio estimate).
    """
    num_answers, num_groups = sum(map(len, groups)), len(groups)
    score = sum(map(sum, groups)) / num_answers
    if num_groups < 2:
        return score, None
    squares = sum((sum(answers) - score * len(answers)) ** 2 for answers in groups)
    return score, math.sqrt(squares * num_groups / (num_groups - 1)) / num_answers
