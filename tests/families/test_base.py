"""What families share: missing parts are told, sizes are kept."""

import logging

import pytest
import torch
from tests.tiny import tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.errors import SourceError
from latent2pixel.families import load_family


def test_a_missing_text_encoder_is_told_unless_the_family_does_without():
    flux, sd3 = tiny_pipeline("flux"), tiny_pipeline("sd3")
    load_family("flux").require_text_encoders(flux)
    flux.text_encoder_2 = None
    with pytest.raises(SourceError, match="cannot encode prompts") as caught:
        load_family("flux").require_text_encoders(flux)
    assert caught.value.found == "no text_encoder_2"
    sd3.text_encoder_3 = sd3.tokenizer_3 = None
    load_family("sd3").require_text_encoders(sd3)
    assert len(load_family("sd3").encode(sd3, ["red circle"])) == 1


def test_a_lora_on_the_input_projection_is_left_out_with_a_warning(caplog):
    model = tiny_pixel_pipeline("flux").transformer
    before = model.x_embedder.weight.clone()
    lora = {
        f"transformer.{part}.lora_{half}.weight": torch.randn(*shape)
        for part, inputs in (("x_embedder", 16), ("transformer_blocks.0.attn.to_q", 48))
        for half, shape in (("A", (2, inputs)), ("B", (48, 2)))
    }
    with caplog.at_level(logging.WARNING):
        model.load_lora_adapter(lora, adapter_name="tiny")
    assert "left out 2 tensors" in caplog.text
    assert torch.equal(model.x_embedder.weight, before)
    assert [key for key, _ in model.named_parameters() if "lora_A" in key] == [
        "transformer_blocks.0.attn.to_q.lora_A.tiny.weight"
    ]


def test_a_scheduler_with_other_noise_levels_is_refused():
    from diffusers import DDPMScheduler

    family = load_family("pixart")
    with pytest.raises(SourceError, match="not those that this source was trained at"):
        family.sample_sigmas(2, scheduler=DDPMScheduler(beta_end=0.01), num_tokens=16)
    sigma_B = family.sample_sigmas(2, scheduler=tiny_pipeline("pixart").scheduler, num_tokens=16)
    assert sigma_B.shape == (2,)


def test_lift_of_a_noise_predicting_source_is_refused():
    from tests.tiny import noise

    from latent2pixel.convert.images import FitImages
    from latent2pixel.convert.initialise import fit_lift

    images = FitImages(name="noise", images=noise(2, 3, 32, 32))
    with pytest.raises(SourceError, match="flow-matching sources only") as caught:
        fit_lift(tiny_pipeline("pixart"), images, [], patch_size=16)
    assert caught.value.found == "objective eps"
