"""What HunyuanImage alone promises."""

import pytest
from tests.tiny import tiny_pipeline

from latent2pixel.errors import SourceError
from latent2pixel.families import load_family


@pytest.mark.parametrize("variant", [{"use_meanflow": True}, {"guidance_embeds": True}, {"patch_size": (1, 1, 1)}])
def test_distilled_models_and_the_refiner_are_refused(variant):
    family, config = load_family("hunyuan_image"), dict(tiny_pipeline("hunyuan_image").transformer.config)
    with pytest.raises(SourceError, match="straight path"):
        family.pixel_config({**config, **variant}, 32)


def test_a_prompt_without_words_in_quotes_takes_no_states_of_the_second_encoder():
    family, pipe = load_family("hunyuan_image"), tiny_pipeline("hunyuan_image")
    without, with_words = family.encode(pipe, ["a red circle", 'the "two" to the left'])
    assert len(without["encoder_hidden_states_2"]) == 0
    assert len(with_words["encoder_hidden_states_2"]) > 0
    arguments = family.collate(pipe.transformer, [without, with_words], (2, 3))
    assert arguments["encoder_hidden_states_2"].shape[:2] == (2, pipe.tokenizer_2_max_length)
    assert not arguments["encoder_attention_mask_2"][0].any()
