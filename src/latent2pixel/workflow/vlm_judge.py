"""A vision-language model behind an endpoint as the judge of DPG-Bench: another judge, so another benchmark.

Shape letters: C channels (3, sRGB), H height, W width.
"""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from latent2pixel.data.prompting.asking import Asker, Usage
from latent2pixel.data.prompting.journal import Journal
from latent2pixel.data.prompting.language_model import LanguageModel, Question
from latent2pixel.data.prompting.replies import answer_schema, read_answer
from latent2pixel.data.prompting.settings import AskSettings
from latent2pixel.io.images import png_of

INSTRUCTIONS = (
    "You are shown one picture and a question about it. Answer by what can be seen in the picture alone. "
    "Answer yes if it is clearly so, and no if it is not so, cannot be seen, or you are in doubt. "
    'Reply with a JSON object and nothing else: {"answer": "yes"} or {"answer": "no"}.'
)
"""Ours; DPG-Bench's own judge is asked with the bare question."""
MAX_TOKENS = 1024
"""Of a reply: ten for the answer, the rest for a thinking model's thoughts; small contexts hold the picture too."""


class VLMJudge:
    """Asks a model that sees, many questions at a time, and keeps every reply; a context manager.

    Args:
        model: Sees pictures, such as an ``OpenAIModel``.
        replies: File of what was paid for: no question in it is asked again.
        settings: Limits; None takes the usual ones with replies of at most ``MAX_TOKENS``.

    Raises:
        StateError: The file is damaged, or another process writes into it.
    """

    def __init__(self, model: LanguageModel, replies: Path, *, settings: AskSettings | None = None) -> None:
        self.name = "vlm-" + re.sub(r"[^\w.]+", "-", model.name).strip("-")
        self._model, self._settings, self.usage = model, settings or AskSettings(max_tokens=MAX_TOKENS), Usage()
        self._journal = Journal(replies)
        self._asker = Asker(model, self._journal, settings=self._settings, usage=self.usage)
        # One loop for all pictures: connections and limits belong to it.
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> "VLMJudge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, images_CHW: Sequence[Tensor], questions: Sequence[str]) -> list[list[str | None]]:
        """Return "yes" or "no" for each picture of sRGB bytes and each question; None where the model would not say.

        Raises:
            EndpointError: The server is down, the money is spent, or no question can succeed.
        """
        pictures = [png_of(image_CHW) for image_CHW in images_CHW]
        flat = self._loop.run_until_complete(self._answers(pictures, questions))
        width = len(questions)
        return [flat[start : start + width] for start in range(0, len(flat), width)]

    def as_record(self) -> dict[str, Any]:
        """Return what decides its answers, as plain JSON values."""
        asked = hashlib.sha256(INSTRUCTIONS.encode()).hexdigest()
        return {"name": self.name, "model": self._model.name, "instructions": asked}

    def close(self) -> None:
        """Close the connections and the file of replies."""
        self._loop.run_until_complete(self._model.close())
        self._loop.close()
        self._journal.close()

    async def _answers(self, pictures: Sequence[bytes], questions: Sequence[str]) -> list[str | None]:
        asked = [self._answer(picture, text) for picture in pictures for text in questions]
        # Not the first error at once: replies that are under way have to be paid for, and are kept.
        told = await asyncio.gather(*asked, return_exceptions=True)
        answers: list[str | None] = []
        for one in told:
            if isinstance(one, BaseException):
                raise one
            answers.append(one)
        return answers

    async def _answer(self, picture: bytes, text: str) -> str | None:
        question = Question(
            task="look",
            system=INSTRUCTIONS,
            data={"question": text},
            schema=answer_schema(),
            seed=0,
            temperature=0.0,  # the same answer to the same question, as far as a server can
            max_tokens=self._settings.max_tokens,
            picture=picture,
        )
        return (await self._asker.ask(question, read_answer)).result
