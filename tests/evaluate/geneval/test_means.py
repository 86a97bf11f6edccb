import math
import statistics

import pytest

from latent2pixel.evaluate.geneval.means import TaskMean, six_task_mean, task_means
from latent2pixel.evaluate.geneval.names import TASKS


def verdicts(task, counts):
    """Verdicts from (right, all) of each prompt."""
    return [
        (task, f"{index:05d}", number < right) for index, (right, whole) in enumerate(counts) for number in range(whole)
    ]


def test_mean_over_pictures_with_the_spread_of_prompts():
    mean = task_means(verdicts("colors", [(4, 4), (1, 4), (0, 4)]))["colors"]
    assert (mean.score, mean.num_images, mean.num_prompts) == (5 / 12, 12, 3)
    assert mean.standard_error == pytest.approx(statistics.stdev([1, 0.25, 0]) / math.sqrt(3), rel=1e-12)


def test_pictures_count_equally_where_prompts_have_different_numbers():
    mean = task_means(verdicts("colors", [(4, 4), (0, 1)]))["colors"]
    assert mean.score == 4 / 5  # not (1 + 0) / 2
    # Residuals 4 - 0.8 * 4 and 0 - 0.8.
    assert mean.standard_error == pytest.approx(math.sqrt((0.8**2 + 0.8**2) * 2 / 1) / 5, rel=1e-12)


def test_one_prompt_has_no_error():
    assert task_means(verdicts("colors", [(2, 4)]))["colors"].standard_error is None


def test_six_tasks_count_equally_whatever_their_size():
    tasks = {
        task: TaskMean(score=0.1 * number, standard_error=0.01 * number, num_images=10**number, num_prompts=9)
        for number, task in enumerate(TASKS, 1)
    }
    score, error = six_task_mean(tasks)
    assert score == pytest.approx(0.35, rel=1e-12)
    assert error == pytest.approx(0.01 * math.sqrt(1 + 4 + 9 + 16 + 25 + 36) / 6, rel=1e-12)


def test_five_tasks_have_no_score():
    tasks = task_means(verdict for task in TASKS[1:] for verdict in verdicts(task, [(1, 4), (2, 4)]))
    assert six_task_mean(tasks) == (None, None)
    tasks |= task_means(verdicts(TASKS[0], [(4, 4)]))
    score, error = six_task_mean(tasks)
    assert score == pytest.approx((5 * 3 / 8 + 1) / 6, rel=1e-12)
    assert error is None  # of the task with one prompt
