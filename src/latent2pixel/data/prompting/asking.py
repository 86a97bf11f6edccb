"""Asking a model many questions: a limit on how many at a time, repetition, counts of all that happened, and an end."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from latent2pixel.data.prompting.journal import Journal, question_key
from latent2pixel.data.prompting.language_model import LanguageModel, Question, QuestionRefused, Reply, TemporaryFailure
from latent2pixel.data.prompting.replies import ReplyError
from latent2pixel.data.prompting.settings import AskSettings
from latent2pixel.errors import EndpointError

MAX_BACKOFF = 60
"""Longest wait between repetitions, in units of ``backoff_s``."""
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Result]):
    """What came of a question."""

    result: Result | None = None
    """What was read from the reply that could be used."""
    reason: str = ""
    """Why there is none."""
    text: str = ""
    """The last reply that could not be used."""
    is_unanswered: bool = False
    """No reply: nothing was paid, and the next run asks again."""


@dataclass(kw_only=True)
class Usage:
    """Counts of one run; what earlier ones in the same folder paid for is in the journal."""

    new_replies: int = 0
    """Replies that this run got."""
    unusable: int = 0
    """Replies, old and new, that could not be used."""
    failures: Counter[str] = field(default_factory=Counter)
    """Failures of the server by kind; most of them went away on repetition."""


class Asker:
    """Asks one model, and keeps every reply.

    Args:
        model: Who is asked.
        journal: Keeps replies; what it has is not asked again.
        settings: Limits.
        usage: Counts; several askers may share it.
    """

    def __init__(self, model: LanguageModel, journal: Journal, *, settings: AskSettings, usage: Usage) -> None:
        self._model, self._journal, self._settings, self.usage = model, journal, settings, usage
        self._free = asyncio.Semaphore(settings.concurrency)
        self._pace = _Pace(settings)
        self._failed_in_a_row = 0
        self._stop_error: EndpointError | None = None
        self._stopped = asyncio.Event()

    async def ask(self, question: Question, read: Callable[[str], Result]) -> Outcome[Result]:
        """Ask until a reply can be read.

        Args:
            question: What to ask; each further attempt has another seed.
            read: Returns what is in a reply, or raises ``ReplyError``.

        Raises:
            EndpointError: The server is down, the money is spent, or no question can succeed.
        """
        outcome: Outcome[Result] = Outcome(reason="it was never asked")
        for attempt in range(self._settings.attempts):
            asked = replace(question, seed=(question.seed + attempt) % 2**31)
            try:
                reply = await self._reply(asked)
            except QuestionRefused as error:
                self._count_failure("refused by the server", str(error))
                return Outcome(reason=f"the server refused the question: {error}")
            except TemporaryFailure as error:
                self._count_failure("given up", str(error))
                return Outcome(reason=f"no reply: {error}", is_unanswered=True)
            except EndpointError as error:
                self.stop(error)
                raise
            try:
                if reply.refusal:
                    raise ReplyError(f"the model refused: {reply.refusal}")
                return Outcome(result=read(reply.text))
            except ReplyError as error:
                self.usage.unusable += 1
                cut = " (it ended at the token limit)" if reply.is_cut else ""
                outcome = Outcome(reason=f"{error}{cut}", text=reply.text)
        return outcome

    def stop(self, error: EndpointError) -> None:
        """Let no further question go out; those under way end, since their replies may have to be paid for.

        Args:
            error: Raised by every later question, unless an earlier call gave another.
        """
        self._stop_error = self._stop_error or error
        self._stopped.set()

    async def _reply(self, question: Question) -> Reply:
        """Return the reply that is kept, or a new one, which is kept."""
        key = question_key(question, model=self._model.name)
        reply = self._journal.reply(key)
        if reply is None:
            async with self._free:
                reply = await self._new_reply(question)
            self._failed_in_a_row = 0
            self._journal.add(key, reply, task=question.task)
            self.usage.new_replies += 1
        return reply

    async def _new_reply(self, question: Question) -> Reply:
        """Return one reply, after as many repetitions as the settings allow."""
        settings = self._settings
        # Not from the run's seed: two runs that were throttled together must not come back together.
        jitter = random.Random()
        for repetition in range(settings.retries + 1):
            self._require_money()
            await self._pace.wait()
            if self._stop_error:
                raise self._stop_error
            try:
                reply = await self._model.ask(question)
            except TemporaryFailure as error:
                self.usage.failures[error.kind] += 1
                if repetition == settings.retries:
                    raise
                longest_s = settings.backoff_s * MAX_BACKOFF
                wait_s = min(settings.backoff_s * 2**repetition, longest_s) * jitter.uniform(0.5, 1.0)
                if error.wait_s is not None:
                    # What a server asks for holds for all questions; but not beyond our own patience.
                    wait_s = min(error.wait_s, longest_s)
                    self._pace.pause(wait_s)
                await self._sleep(wait_s)
            else:
                self._pace.spend((reply.tokens_in or 0) + (reply.tokens_out or 0))
                return reply
        raise AssertionError("unreachable: the last repetition returns or raises")

    def _require_money(self) -> None:
        limit = self._settings.max_cost
        if limit and (cost := cost_of(self._journal, self._settings)) >= limit:
            raise EndpointError(
                "The money for this folder is spent",
                found=f"{cost:.4f} of {limit:g}",
                expected="less than max_cost",
                fix="Raise max_cost and run the same command again: it goes on, and pays nothing twice.",
            )

    def _count_failure(self, kind: str, told: str) -> None:
        self.usage.failures[kind] += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._settings.stop_after:
            error = EndpointError(
                "The endpoint does not answer",
                found=f"{self._failed_in_a_row} questions in succession without a reply; the last: {told}",
                expected="replies",
                fix="Check the server. What was paid for is kept: the same command goes on.",
            )
            self.stop(error)
            raise error

    async def _sleep(self, wait_s: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), wait_s)


def cost_of(journal: Journal, settings: AskSettings) -> float:
    """Return the price of all replies in a journal, in the currency of the settings' prices."""
    return (journal.tokens_in * settings.price_in + journal.tokens_out * settings.price_out) / 1_000_000


class _Pace:
    """Keeps to a rate of questions and, on average, of tokens."""

    def __init__(self, settings: AskSettings) -> None:
        self._gap_s = 60 / settings.requests_per_minute if settings.requests_per_minute else 0.0
        self._s_per_token = 60 / settings.tokens_per_minute if settings.tokens_per_minute else 0.0
        self._next = 0.0
        """Earliest time of the next question, on the monotonic clock."""

    async def wait(self) -> None:
        """Return when the next question may be sent."""
        while (wait_s := self._next - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        self._next = max(self._next, time.monotonic()) + self._gap_s

    def spend(self, num_tokens: int) -> None:
        """Put the next question off by the time that the tokens of a reply stand for."""
        self._next = max(self._next, time.monotonic()) + num_tokens * self._s_per_token

    def pause(self, wait_s: float) -> None:
        """Send nothing for some time."""
        self._next = max(self._next, time.monotonic() + wait_s)
