"""A tiny source and its pixel model on the disk."""

import pytest
from tests.tiny import EXAMPLES, tiny_pipeline, tiny_pixel_pipeline


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, pipe in (("source", tiny_pipeline(EXAMPLES[0])), ("pixel", tiny_pixel_pipeline(EXAMPLES[0]))):
        pipe.save_pretrained(folder / name)
    return folder / "source", folder / "pixel"
