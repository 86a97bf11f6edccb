"""Encoders without the model, for every family: the same encodings, and a pipeline that works while they are lent."""

import pytest
import torch
from tests.tiny import FAMILIES, PROMPTS, tiny_pixel_pipeline, tiny_source

from latent2pixel.generate import load_pipeline
from latent2pixel.workflow.encoders import Encoders


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_encoded_as_with_the_whole_pipeline(name, tmp_path):
    folder = tmp_path
    tiny_pixel_pipeline(name).save_pretrained(folder)
    prompts = getattr(tiny_source(name), "PROMPTS", PROMPTS)
    encoders, whole = Encoders(folder, torch.device("cpu")), load_pipeline(folder)
    ours, theirs = encoders.encode(prompts), encoders.family.encode(whole, prompts)
    for our, their in zip(ours, theirs, strict=True):
        assert our.keys() == their.keys()
        assert all(torch.equal(our[key], their[key]) for key in our)
    encoders.close()
    bare = load_pipeline(folder, without=encoders.names)
    assert all(bare.components[part] is None for part in encoders.names)
    with encoders.lent_to(bare) as pipe:
        assert all(pipe.components[part] is not None for part in encoders.names)
    assert all(bare.components[part] is None for part in encoders.names)
