"""A language model behind any OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, or a hosted one.

Repetition, waiting and limits are the engine's (``asking.py``): the client itself never sends a question twice, so that
every reply is counted and kept.
"""

import asyncio
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from latent2pixel.data.prompting.language_model import Question, QuestionRefused, Reply, TemporaryFailure
from latent2pixel.errors import ConfigError, EndpointError

if TYPE_CHECKING:
    from openai import APIStatusError

OFFERS = ("json_schema", "json_object", "none")
"""Values of ``response_format``, the strictest first; servers that refuse one are asked with the next."""
OPTIONAL = ("seed", "temperature")
"""Parameters that are left out for servers whose error names them."""
BUSY = (408, 409, 425, 429)
"""Statuses below 500 that pass."""
SCHEMA_NAME = "reply"
"""The API asks for one; nobody reads it."""


@dataclass(frozen=True, kw_only=True)
class _Offer:
    """What is sent beside the messages, as far as the server takes it."""

    response_format: str = OFFERS[0]
    left_out: frozenset[str] = frozenset()
    token_limit: str = "max_tokens"
    has_system: bool = True
    """Whether the instructions are a message of their own; some models know no such role."""

    def lowered(self, told: str) -> "_Offer | None":
        """Return the next offer after a refusal, the one that the server's words name first; None: there is none."""
        if self.has_system and re.search(r"system.{0,20}role|role.{0,20}system", told, re.IGNORECASE):
            return replace(self, has_system=False)
        if "max_tokens" in told and self.token_limit == "max_tokens":
            return replace(self, token_limit="max_completion_tokens")
        for name in OPTIONAL:
            if name in told and name not in self.left_out:
                return replace(self, left_out=self.left_out | {name})
        if self.response_format != OFFERS[-1]:
            return replace(self, response_format=OFFERS[OFFERS.index(self.response_format) + 1])
        return None

    def parameters(self, question: Question) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "seed": question.seed,
            "temperature": question.temperature,
        }
        sent = {name: value for name, value in parameters.items() if name not in self.left_out}
        sent[self.token_limit] = question.max_tokens
        if self.response_format == "json_schema":
            schema = {"name": SCHEMA_NAME, "strict": True, "schema": dict(question.schema)}
            sent["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.response_format == "json_object":
            sent["response_format"] = {"type": "json_object"}
        return sent


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(BaseModel):
    """The part of a server's answer that is used: servers differ in the rest."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


class OpenAIModel:
    """A model of an OpenAI-compatible server.

    Args:
        model: The server's name of the model.
        base_url: Such as ``http://localhost:8000/v1``; None takes OpenAI's, or the environment's OPENAI_BASE_URL.
        api_key_env: Name of the environment variable that holds the key; servers of one's own need none.
        timeout_s: Longest wait for a reply, whole: a server that sends a byte now and then does not extend it.
        extra_body: Sent with every question, such as ``{"chat_template_kwargs": {"enable_thinking": false}}``.

    Raises:
        ConfigError: The package openai is missing.
        EndpointError: A hosted server needs a key, and there is none.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ConfigError(
                "The backend openai needs a package that is not installed",
                found=str(error),
                expected="the package openai",
                fix="Install it with `pip install 'latent2pixel[data]'`.",
            ) from error
        key = os.environ.get(api_key_env, "")
        if not key and base_url is None:
            raise EndpointError(
                "The endpoint needs a key",
                found=f"nothing in the environment variable {api_key_env}",
                expected="a key, or an endpoint of your own",
                fix=f"Set {api_key_env}, name another variable with --api-key-env, or give --base-url.",
            )
        self._openai, self._model, self._timeout_s = openai, model, timeout_s
        self._extra_body = dict(extra_body or {})
        self._client = openai.AsyncOpenAI(api_key=key or "none", base_url=base_url, timeout=timeout_s, max_retries=0)
        self._offer = _Offer()

    @property
    def name(self) -> str:
        """Return the model's name, with what is sent beside every question."""
        return f"{self._model} {json.dumps(self._extra_body, sort_keys=True)}" if self._extra_body else self._model

    async def ask(self, question: Question) -> Reply:
        """Return one reply; parameters that the server refuses are left out from then on."""
        offer = self._offer
        while True:
            try:
                reply = await self._send(question, offer)
            except self._openai.APIStatusError as error:
                told = _told(error)
                refuses_parameter = error.status_code in (400, 422) or "response_format" in told
                lower = offer.lowered(told) if refuses_parameter else None
                if lower is None:
                    raise self._failure(error, told) from error
                offer = lower
            else:
                # Kept only now: a question that is refused for its content must not cost the others the schema.
                self._offer = offer
                return reply

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _send(self, question: Question, offer: _Offer) -> Reply:
        messages = question.messages(has_system=offer.has_system)
        create: Any = self._client.chat.completions.with_raw_response.create
        call = create(
            model=self._model, messages=messages, extra_body=self._extra_body or None, **offer.parameters(question)
        )
        try:
            response = await asyncio.wait_for(call, self._timeout_s)
        except (asyncio.TimeoutError, self._openai.APITimeoutError) as error:
            raise TemporaryFailure("timeout", f"no reply within {self._timeout_s:g} s") from error
        except self._openai.APIConnectionError as error:
            raise TemporaryFailure("connection", str(error.__cause__ or error)) from error
        try:
            completion = _Completion.model_validate_json(response.content)
        except ValidationError as error:
            raise TemporaryFailure("broken answer", f"{response.text[:120]!r}") from error
        choice, usage = completion.choices[0], completion.usage or _Usage()
        filtered = "the server's content filter" if choice.finish_reason == "content_filter" else ""
        return Reply(
            text=choice.message.content or "",
            refusal=choice.message.refusal or filtered,
            is_cut=choice.finish_reason == "length",
            tokens_in=usage.prompt_tokens,
            tokens_out=usage.completion_tokens,
        )

    def _failure(self, error: "APIStatusError", told: str) -> Exception:
        status = error.status_code
        if (status in BUSY or status >= 500) and error.code != "insufficient_quota":
            return TemporaryFailure(f"status {status}", told, wait_s=_retry_after_s(error))
        if status in (401, 402, 404, 405) or error.code == "insufficient_quota":
            return EndpointError(
                f"The endpoint does not serve {self._model}",
                found=f"status {status}: {told}",
                expected="a reply",
                fix="Check --base-url, --model and the key; what was paid for is kept, the same command goes on.",
            )
        return QuestionRefused(f"status {status}: {told}")


def _told(error: "APIStatusError") -> str:
    """Return the server's words, shortened."""
    return " ".join(str(error.body or error.response.text or error).split())[:300]


def _retry_after_s(error: "APIStatusError") -> float | None:
    text = error.response.headers.get("retry-after", "")
    try:
        return max(float(text), 0.0)
    except ValueError:  # absent, or a date
        return None
