"""A way to run the engine against a local server, with waits that fit a test."""

from pathlib import Path

import pytest

from latent2pixel.data.prompting.openai_model import OpenAIModel
from latent2pixel.data.prompting.settings import AskSettings, PromptSettings
from latent2pixel.data.prompting.taxonomy import load_taxonomy
from latent2pixel.data.prompting.templates import load_templates
from latent2pixel.data.prompting.write import write_prompts

FAST = {"backoff_s": 0.01, "timeout_s": 2.0, "retries": 3}


@pytest.fixture(scope="session")
def taxonomy():
    return load_taxonomy()


@pytest.fixture
def write(tmp_path, taxonomy):
    """Write prompts from a server into a folder."""

    def run(
        server, *, folder: Path = tmp_path / "prompts", num=20, classes=taxonomy, asking=None, auditor=None, **settings
    ):
        limits = AskSettings(**FAST | (asking or {}))
        judge = auditor and OpenAIModel("judge", base_url=auditor.base_url, timeout_s=limits.timeout_s)
        return write_prompts(
            folder,
            taxonomy=classes,
            templates=load_templates(),
            settings=PromptSettings(num=num, **settings),
            asking=limits,
            writer=OpenAIModel("tiny", base_url=server.base_url, timeout_s=limits.timeout_s),
            auditor=judge,
            backend="openai",
        )

    return run
