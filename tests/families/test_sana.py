"""What Sana alone promises."""

import pytest
import torch
from tests.tiny import PROMPTS, tiny_pipeline

from latent2pixel.errors import SourceError
from latent2pixel.families import load_family


@pytest.mark.parametrize("change", [{"guidance_embeds": True}, {"timestep_scale": 0.001}, {"patch_size": 2}])
def test_sprint_and_other_patches_are_refused(change):
    config = dict(tiny_pipeline("sana").transformer.config)
    with pytest.raises(SourceError, match="straight path"):
        load_family("sana").pixel_config({**config, **change}, 32)


def test_only_the_empty_prompt_goes_without_the_instruction():
    family, pipe = load_family("sana"), tiny_pipeline("sana")
    mixed = family.encode(pipe, [PROMPTS[0], family.null_prompt])
    prompt, null = (item["encoder_attention_mask"] for item in mixed)
    assert prompt.sum() == 4  # two words, and what the pipeline leaves of the instruction: its first and last token
    assert null.sum() == 0
    alone = family.encode(pipe, [PROMPTS[0]])[0]["encoder_hidden_states"]
    torch.testing.assert_close(mixed[0]["encoder_hidden_states"], alone, atol=1e-5, rtol=1e-5)
