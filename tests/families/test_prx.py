"""What PRX alone promises."""

import pytest
from tests.tiny import PROMPTS, tiny_pipeline

from latent2pixel.errors import SourceError
from latent2pixel.families import load_family, prx


@pytest.mark.parametrize("change", [{"patch_size": 1}, {"bottleneck_size": 16}])
def test_variants_with_other_tokens_are_refused(change):
    config = dict(tiny_pipeline("prx").transformer.config)
    with pytest.raises(SourceError, match="other tokens than those of 2 x 2 latent cells"):
        load_family("prx").pixel_config({**config, **change}, 8)


def test_a_missing_ftfy_is_told(monkeypatch):
    monkeypatch.setattr(prx, "is_ftfy_available", lambda: False)
    with pytest.raises(SourceError, match="pip install ftfy"):
        load_family("prx").encode(tiny_pipeline("prx"), PROMPTS)
