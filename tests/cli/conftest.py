"""A tiny source and its pixel model on disk, made once for all commands."""

import pytest
from tests.tiny import EXAMPLES, tiny_pipeline, tiny_pixel_pipeline


@pytest.fixture(scope="session")
def source_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "source"
    tiny_pipeline(EXAMPLES[0]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pixel_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixel") / "pixel"
    tiny_pixel_pipeline(EXAMPLES[0]).save_pretrained(folder)
    return folder
