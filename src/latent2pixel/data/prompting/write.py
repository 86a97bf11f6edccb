"""Prompts from a taxonomy and a language model, into a folder that any interrupted run goes on in.

Nothing but the replies is state. A run computes the plan, asks in its order, and takes what ``replies.jsonl`` has from
there: killed and started again, it comes to the same folder and pays for nothing twice.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from latent2pixel.data.prompting.asking import Asker, Usage, cost_of
from latent2pixel.data.prompting.expand import expand_taxonomy
from latent2pixel.data.prompting.folder import (
    REPLIES,
    TAXONOMY,
    PromptsReport,
    claim_folder,
    make_report,
    save_folder,
)
from latent2pixel.data.prompting.funnel import Funnel, Rejected, Written, alike_openers
from latent2pixel.data.prompting.journal import Journal
from latent2pixel.data.prompting.language_model import LanguageModel
from latent2pixel.data.prompting.local_checks import Objection, cleaned, objection_to
from latent2pixel.data.prompting.near_duplicates import load_encoder
from latent2pixel.data.prompting.plan import Batch, Place, first_batches, next_batches, plan_places
from latent2pixel.data.prompting.questions import audit_question, writing_question
from latent2pixel.data.prompting.replies import Verdict, WrittenPrompt, read_items
from latent2pixel.data.prompting.settings import AskSettings, PromptSettings
from latent2pixel.data.prompting.taxonomy import Taxonomy, save_taxonomy
from latent2pixel.data.prompting.templates import Templates
from latent2pixel.errors import EndpointError

MAX_REASON = 300
"""Characters kept of an auditor's reason, which should have 20 words."""


def write_prompts(
    folder: Path,
    *,
    taxonomy: Taxonomy,
    templates: Templates,
    settings: PromptSettings,
    asking: AskSettings,
    writer: LanguageModel,
    auditor: LanguageModel | None = None,
    backend: str = "",
) -> PromptsReport:
    """Write a folder of prompts, or go on where an earlier call stopped.

    Args:
        folder: Receives ``prompts.jsonl``, ``rejected.jsonl``, ``manifest.json``, ``taxonomy.yaml``, and
            ``replies.jsonl`` with every reply that was paid for.
        taxonomy: What prompts are about.
        templates: System prompts.
        settings: What decides the prompts.
        asking: How the model is asked.
        writer: Writes prompts, and categories if the taxonomy is to be extended; closed at the end, as the auditor is.
        auditor: Judges them; None takes the writer.
        backend: For the manifest.

    Raises:
        StateError: The folder holds prompts of other settings, or another process writes there.
        EndpointError: The model does not answer, or the money is spent; what is there is saved first.
        ConfigError: The taxonomy, the settings or the installed packages do not serve.
    """
    return asyncio.run(
        _Run(
            folder,
            taxonomy=taxonomy,
            templates=templates,
            settings=settings,
            asking=asking,
            writer=writer,
            auditor=auditor or writer,
            backend=backend,
        ).run()
    )


@dataclass(kw_only=True)
class _BatchResult:
    """What became of the places of one batch before they meet the others."""

    batch: Batch
    passed: list[Written] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    unanswered: list[Place] = field(default_factory=list)


class _Run:
    """One call of ``write_prompts``."""

    def __init__(
        self,
        folder: Path,
        *,
        taxonomy: Taxonomy,
        templates: Templates,
        settings: PromptSettings,
        asking: AskSettings,
        writer: LanguageModel,
        auditor: LanguageModel,
        backend: str,
    ) -> None:
        self.folder, self.taxonomy, self.templates = folder, taxonomy, templates
        self.settings, self.asking, self.models = settings, asking, (writer, auditor)
        needs_encoder = settings.near_duplicates > 0 or settings.expand_to > 0
        self.encoder = load_encoder(settings.encoder) if needs_encoder else None
        self.funnel = Funnel(settings, self.encoder)
        self.usage = Usage()
        self.rejected: list[Rejected] = []
        self.unanswered = 0
        self.rounds = 0
        self.started = time.monotonic()
        self.manifest = {
            **asdict(settings),
            "backend": backend,
            "model": writer.name,
            "judge_model": auditor.name if settings.judge else "",
            "templates": templates.version,
            "taxonomy": hashlib.sha256(taxonomy.as_yaml().encode()).hexdigest()[:16],
        }

    async def run(self) -> PromptsReport:
        claim_folder(self.folder, self.manifest)
        self.journal = journal = Journal(self.folder / REPLIES)
        writer, auditor = self.models
        try:
            self.writer = Asker(writer, journal, settings=self.asking, usage=self.usage)
            self.auditor = self.writer
            if auditor is not writer:
                self.auditor = Asker(auditor, journal, settings=self.asking, usage=self.usage)
            await self._expand()
            save_taxonomy(self.folder / TAXONOMY, self.taxonomy)
            await self._rounds()
        finally:
            journal.close()
            for model in {id(model): model for model in self.models}.values():
                await model.close()
        return self._save()

    async def _expand(self) -> None:
        if self.settings.expand_to:
            self.taxonomy = await expand_taxonomy(
                self.taxonomy,
                total=self.settings.expand_to,
                asker=self.writer,
                templates=self.templates,
                settings=self.settings,
                encoder=self.encoder,
                max_tokens=self.asking.max_tokens,
            )

    async def _rounds(self) -> None:
        settings = self.settings
        places = plan_places(
            self.taxonomy,
            num=settings.num,
            detailed_share=settings.detailed_share,
            zh_share=settings.zh_share,
            seed=settings.seed,
        )
        batches = first_batches(places, batch_size=settings.batch_size)
        while batches and self.rounds < self.asking.rounds:
            self.rounds += 1
            results, failed = await self._ask_for(batches)
            batches = self._keep(results)
            self._save()
            if failed:
                raise failed
        if self.unanswered:
            raise EndpointError(
                f"{self.unanswered} of {settings.num} prompts are missing: their questions had no reply",
                found=", ".join(f"{count} x {kind}" for kind, count in sorted(self.usage.failures.items())),
                expected="a reply to every question",
                fix="Run the same command again: it asks these alone. What is there is saved.",
            )

    async def _ask_for(self, batches: Sequence[Batch]) -> tuple[list[_BatchResult], BaseException | None]:
        """Ask for all batches of a round; return what came of them, and what stopped the run, if something did."""
        label = f"{self.folder.name}, round {self.rounds}"
        # Whole batches, not questions: otherwise all audits would wait behind all that is to be written.
        free = asyncio.Semaphore(self.asking.concurrency)
        with tqdm(total=sum(len(batch.places) for batch in batches), desc=label, unit="prompt") as bar:

            async def one(batch: Batch) -> _BatchResult:
                try:
                    async with free:
                        result = await self._write(batch)
                except EndpointError as error:
                    # The auditor may be down while the writer is not: nothing more is to be paid for.
                    self.writer.stop(error)
                    self.auditor.stop(error)
                    raise
                bar.update(len(batch.places))
                num_tokens = self.journal.tokens_in + self.journal.tokens_out
                bar.set_postfix_str(f"{num_tokens} tokens, cost {cost_of(self.journal, self.asking):.4f}")
                return result

            ended = await asyncio.gather(*map(one, batches), return_exceptions=True)
        failures = [result for result in ended if isinstance(result, BaseException)]
        # A bug of ours comes before a server's fault.
        failures.sort(key=lambda failure: isinstance(failure, EndpointError))
        results = [
            _BatchResult(batch=batch, unanswered=list(batch.places)) if isinstance(result, BaseException) else result
            for batch, result in zip(batches, ended, strict=True)
        ]
        return results, failures[0] if failures else None

    def _keep(self, results: Sequence[_BatchResult]) -> list[Batch]:
        """Take what a round brought, and return the batches of the next."""
        rejected = [one for result in results for one in result.rejected]
        rejected += self.funnel.add([one for result in results for one in result.passed])
        self.rejected += rejected
        self.unanswered += sum(len(result.unanswered) for result in results)
        is_open = {one.place.number for one in rejected}
        batches: list[Batch] = []
        for result in results:
            open_places = [place for place in result.batch.places if place.number in is_open]
            batches += next_batches(result.batch, open_places, batch_size=self.settings.batch_size)
        return batches

    async def _write(self, batch: Batch) -> _BatchResult:
        """Ask for the prompts of a batch, and check them alone and against each other."""
        result = _BatchResult(batch=batch)
        question = writing_question(
            batch, templates=self.templates, settings=self.settings, max_tokens=self.asking.max_tokens
        )
        num = len(batch.places)
        outcome = await self.writer.ask(question, lambda text: read_items(text, "prompts", WrittenPrompt, num=num))
        if outcome.is_unanswered:
            result.unanswered += batch.places
            return result
        for number, place in enumerate(batch.places, start=1):
            written = (outcome.result or {}).get(number)
            text = cleaned(written.prompt) if written else outcome.text
            one = Written(place=place, text=text, round=batch.round)
            objection = self._objection(one, is_written=written is not None, why=outcome.reason)
            if objection:
                result.rejected.append(_rejected(one, objection))
            else:
                result.passed.append(one)
        if self.settings.check_openers:
            result.passed, alike = alike_openers(result.passed)
            result.rejected += alike
        if self.settings.judge:
            await self._audit(result)
        return result

    def _objection(self, one: Written, *, is_written: bool, why: str) -> Objection | None:
        if not is_written:
            return Objection(stage="schema", reason=why or "the reply has no valid entry for it")
        return objection_to(one.text, one.place, check_lengths=self.settings.check_lengths)

    async def _audit(self, result: _BatchResult) -> None:
        """Let the auditor judge what passed; those that a reply forgets are asked about again."""
        waiting, result.passed = result.passed, []
        for attempt in range(self.asking.attempts):
            left: list[Written] = []
            for start in range(0, len(waiting), self.settings.judge_batch_size):
                group = waiting[start : start + self.settings.judge_batch_size]
                question = audit_question(
                    [(one.place, one.text) for one in group],
                    templates=self.templates,
                    settings=self.settings,
                    name=f"{result.batch.name}/{attempt}/{start}",
                    max_tokens=self.asking.max_tokens,
                )
                read = partial(read_items, field="verdicts", item_class=Verdict, num=len(group))
                outcome = await self.auditor.ask(question, read)
                if outcome.is_unanswered:
                    result.unanswered += [one.place for one in group]
                    continue
                if outcome.result is None:
                    unjudged = Objection(stage="judge", reason=f"no verdict: {outcome.reason}")
                    result.rejected += [_rejected(one, unjudged) for one in group]
                    continue
                left += _judged(group, outcome.result, result)
            waiting = left
        forgotten = Objection(stage="judge", reason="no verdict: the replies left it out")
        result.rejected += [_rejected(one, forgotten) for one in waiting]

    def _save(self) -> PromptsReport:
        report = make_report(
            self.funnel.kept,
            self.rejected,
            wanted=self.settings.num,
            unanswered=self.unanswered,
            rounds=self.rounds,
            journal=self.journal,
            cost=cost_of(self.journal, self.asking),
            usage=self.usage,
            seconds=time.monotonic() - self.started,
        )
        save_folder(self.folder, self.funnel.kept, self.rejected, settings=self.manifest, report=report)
        return report


def _judged(group: Sequence[Written], verdicts: dict[int, Verdict], result: _BatchResult) -> list[Written]:
    """Sort prompts by their verdicts into the result; return those without one."""
    left = []
    for number, one in enumerate(group, start=1):
        verdict = verdicts.get(number)
        if verdict is None:
            left.append(one)
        elif verdict.is_valid:
            result.passed.append(one)
        else:
            reason = f"{verdict.criterion}: {verdict.reason}" if verdict.criterion != "none" else verdict.reason
            short = reason[:MAX_REASON] or "no reason given"
            result.rejected.append(_rejected(one, Objection(stage="judge", reason=short)))
    return left


def _rejected(one: Written, objection: Objection) -> Rejected:
    return Rejected(place=one.place, text=one.text, round=one.round, objection=objection)
