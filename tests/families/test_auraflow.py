"""What AuraFlow alone promises."""

import pytest
from tests.tiny import PROMPTS, tiny_pipeline

from latent2pixel.errors import GeometryError
from latent2pixel.families import load_family


def test_images_beyond_the_learned_positions_are_refused():
    family, pipe = load_family("auraflow"), tiny_pipeline("auraflow")
    items = family.encode(pipe, PROMPTS[:1])
    family.collate(pipe.transformer, items, (16, 2))
    with pytest.raises(GeometryError, match="at most 16 x 16 tokens"):
        family.collate(pipe.transformer, items, (17, 2))
