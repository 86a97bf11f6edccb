"""A language model in this process: transformers, its replies held to the schema by outlines.

For a machine without a server. A server such as vLLM answers many questions at a time, and is far faster on one card.
"""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

from latent2pixel.data.prompting.language_model import Question, Reply
from latent2pixel.errors import ConfigError, SourceError


class LocalModel:
    """A causal language model of transformers, one question at a time.

    Args:
        model: Its class's instance.
        tokenizer: Its tokenizer; a chat template is used where it has one.
        name: For the manifest.

    Raises:
        ConfigError: The package outlines is missing.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        try:
            import outlines
        except ImportError as error:
            raise ConfigError(
                "The backend transformers needs a package that is not installed",
                found=str(error),
                expected="the package outlines",
                fix="Install it with `pip install 'latent2pixel[data]'`.",
            ) from error
        self._name, self._network, self._tokenizer = name, model, tokenizer
        self._outlines = outlines
        self._model = outlines.from_transformers(model, tokenizer)
        self._processors: dict[str, Any] = {}
        self._busy = threading.Lock()

    @property
    def name(self) -> str:
        """Return the name that was given."""
        return self._name

    async def ask(self, question: Question) -> Reply:
        """Return one reply, of the schema's form unless it reaches the token limit first.

        Raises:
            ConfigError: The question is about a picture.
        """
        if question.picture is not None:
            raise ConfigError(
                "The backend transformers sees no pictures",
                found="a question about a picture",
                expected="a model behind an endpoint",
                fix="Serve a model that sees, and ask it by its address.",
            )
        return await asyncio.to_thread(self._answer_alone, question)

    async def close(self) -> None:
        """Nothing is open."""

    def _answer_alone(self, question: Question) -> Reply:
        with self._busy:
            return self._answer(question)

    def _answer(self, question: Question) -> Reply:
        import torch

        has_template = bool(self._tokenizer.chat_template)
        tokens = self._tokenizer(self._prompt(question), return_tensors="pt", add_special_tokens=not has_template)
        tokens = tokens.to(self._network.device)
        num_in = tokens["input_ids"].shape[1]
        sampling: dict[str, Any] = {"do_sample": False}
        if question.temperature:
            sampling = {"do_sample": True, "temperature": question.temperature}
        devices = [self._network.device] if self._network.device.type == "cuda" else []
        # transformers' sampling has no generator argument; the global one is put back afterwards.
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(question.seed)
            said = self._network.generate(
                **tokens,
                max_new_tokens=question.max_tokens,
                logits_processor=[self._processor(question)],
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                **sampling,
            )[0, num_in:]
        text = self._tokenizer.decode(said, skip_special_tokens=True)
        is_cut = len(said) >= question.max_tokens
        return Reply(text=text, is_cut=is_cut, tokens_in=num_in, tokens_out=len(said))

    def _prompt(self, question: Question) -> str:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            return f"{question.system}\n\n{question.user_message()}\n\n"
        # enable_thinking: constrained replies have no room for thoughts; templates without the switch ignore it.
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            return str(self._tokenizer.apply_chat_template(question.messages(has_system=True), **options))
        except TemplateError:  # how templates refuse the system role
            return str(self._tokenizer.apply_chat_template(question.messages(has_system=False), **options))

    def _processor(self, question: Question) -> Any:
        """Return what holds a reply to the schema; compiling one takes seconds, and a run needs a handful."""
        schema = json.dumps(question.schema)
        if schema not in self._processors:
            # Not its own call: that would wrap the finished chat into a second one.
            generator: Any = self._outlines.Generator(self._model, self._outlines.types.JsonSchema(schema))
            self._processors[schema] = generator.logits_processor
        self._processors[schema].reset()
        return self._processors[schema]


def load_local_model(folder: str) -> LocalModel:
    """Load a causal language model and its tokenizer from a folder, or by its id from the Hub.

    Raises:
        SourceError: It cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from latent2pixel.device import fastest_device

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    except (OSError, ValueError) as error:
        raise SourceError(
            "The language model cannot be loaded",
            found=f"{folder}: {str(error).splitlines()[0]}",
            expected="a folder with config.json, weights and a tokenizer, or an id on the Hub",
            fix="Check --model.",
        ) from error
    device = fastest_device().type
    return LocalModel(model.to(device).eval(), tokenizer, name=Path(folder).name if Path(folder).exists() else folder)
