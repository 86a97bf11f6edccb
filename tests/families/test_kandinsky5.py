"""What Kandinsky 5 alone promises."""

import pytest
import torch
from tests.tiny import PROMPTS, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.errors import GeometryError, SourceError
from latent2pixel.families import load_family


@pytest.mark.parametrize("variant", [{"visual_cond": True}, {"attention_type": "nabla"}, {"patch_size": (2, 2, 2)}])
def test_models_of_videos_and_of_edits_are_refused(variant):
    family, config = load_family("kandinsky5"), dict(tiny_pipeline("kandinsky5").transformer.config)
    with pytest.raises(SourceError, match="plain text-to-image"):
        family.pixel_config({**config, **variant}, 8)


def test_images_beyond_the_positions_are_refused():
    family, pipe = load_family("kandinsky5"), tiny_pipeline("kandinsky5")
    items = family.encode(pipe, PROMPTS[:1])
    family.collate(pipe.transformer, items, (128, 2))
    with pytest.raises(GeometryError, match="at most 128 x 128"):
        family.collate(pipe.transformer, items, (2, 129))


@torch.no_grad()
def test_output_is_named_and_a_tuple_as_in_other_classes():
    family, pipe = load_family("kandinsky5"), tiny_pixel_pipeline("kandinsky5")
    cond = family.collate(pipe.transformer, family.encode(pipe, PROMPTS), (2, 3))
    call = {"hidden_states": torch.zeros(2, 3, 32, 48), "timestep": torch.tensor([250.0, 750.0]), **cond}
    named = pipe.transformer(**call).sample
    (plain,) = pipe.transformer(**call, return_dict=False)
    assert torch.equal(named, plain)
    assert plain.shape == (2, 3, 32, 48)
