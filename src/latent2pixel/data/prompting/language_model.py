"""What the engine needs of a language model: one question in, one reply out, and two ways to fail."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
"""A string in JSON text."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question: fixed instructions, and data that is never part of them."""

    task: str
    """"write", "audit", "expand" or "look"."""
    system: str
    """Instructions, from a template alone."""
    data: Mapping[str, Any]
    """The user message, as JSON: everything that users or models wrote."""
    schema: Mapping[str, Any]
    """JSON schema of the reply."""
    seed: int
    """Of the sampling; servers may ignore it."""
    temperature: float
    max_tokens: int
    places: tuple[tuple[str, int], ...] = ()
    """Sub-class of each item and its number there, for writers without a language model; no server is told."""
    picture: bytes | None = None
    """A PNG file that the question is about, for models that see."""

    def messages(self, *, has_system: bool) -> list[dict[str, Any]]:
        """Return the chat; without a system role the instructions stand before the data in one message."""
        if has_system:
            return [
                {"role": "system", "content": self.system},
                {"role": "user", "content": self._with_picture(self.user_message())},
            ]
        return [{"role": "user", "content": self._with_picture(f"{self.system}\n\nThe data:\n{self.user_message()}")}]

    def user_message(self) -> str:
        """Return the data as JSON text in which no string can be read as a control token.

        Chat templates mark turns with text such as ``<|im_end|>`` or ``[/INST]``, which a tokenizer finds wherever it
        stands. Inside strings "<" and "[" are therefore written as JSON's own escapes.
        """
        text = json.dumps(self.data, ensure_ascii=False)
        return STRING.sub(lambda match: match[0].replace("<", "\\u003c").replace("[", "\\u005b"), text)

    def _with_picture(self, text: str) -> str | list[dict[str, Any]]:
        """Return what a message holds: plain text, or OpenAI's list of a picture and a text."""
        if self.picture is None:
            return text
        url = f"data:image/png;base64,{base64.b64encode(self.picture).decode()}"
        return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model said, and what it cost."""

    text: str
    refusal: str = ""
    """Why the server says that the model refused, if it says so."""
    is_cut: bool = False
    """The reply ended at the token limit."""
    tokens_in: int | None = None
    """None: the server did not say."""
    tokens_out: int | None = None


class TemporaryFailure(Exception):  # noqa: N818 (the question may succeed the next time)
    """No reply this time; asking again may help.

    Args:
        kind: Short name for the report, such as "timeout" or "status 429".
        told: What the server said.
        wait_s: How long it asked to wait; None if it did not.
    """

    def __init__(self, kind: str, told: str, *, wait_s: float | None = None) -> None:
        super().__init__(f"{kind}: {told}")
        self.kind, self.told, self.wait_s = kind, told, wait_s


class QuestionRefused(Exception):  # noqa: N818 (a server's answer to one question, not a fault of the run)
    """The server does not take this question, and would not the next time."""


class LanguageModel(Protocol):
    """Answers questions."""

    @property
    def name(self) -> str:
        """Name for the manifest; replies of another name are not taken for this model's."""
        ...

    async def ask(self, question: Question) -> Reply:
        """Return one reply.

        Raises:
            TemporaryFailure: The server is busy, slow or broken.
            QuestionRefused: The server refuses this question.
            L2PError: No question can succeed, such as with a wrong key.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
