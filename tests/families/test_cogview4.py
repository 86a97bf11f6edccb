"""What CogView4 alone promises: a clock before the noise shift, and padding that nothing masks."""

import pytest
import torch
from tests.tiny import GRID, HEAD, PROMPTS, size_px, tiny_lift, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.convert.ladder import double_patch
from latent2pixel.errors import SourceError
from latent2pixel.families import load_family

LONG = " ".join(["two green triangles"] * 8)
"""26 tokens, so 32 with padding."""


@pytest.mark.parametrize("change", ["none", "larger patch", "doubled"])
@torch.no_grad()
def test_a_lifted_model_hears_the_schedulers_noise_levels(change):
    patch, head = (32, (*HEAD, 8)) if change == "larger patch" else (16, HEAD)
    lift = tiny_lift("cogview4", patch=patch)
    pipe = tiny_pixel_pipeline("cogview4", lift=lift, patch_size=patch, head=head)
    if change == "doubled":
        pipe = double_patch(pipe)
        pipe.set_progress_bar_config(disable=True)
    model, heard = pipe.transformer, []
    lift_in = model.lift_in
    model.lift_in = lambda noisy_BCHW, sigma_B: heard.append(sigma_B[0]) or lift_in(noisy_BCHW, sigma_B)
    size = {key: pixels * model.config["pixel_patch_size"] // 16 for key, pixels in size_px("cogview4").items()}
    pipe(prompt=PROMPTS[0], num_inference_steps=4, guidance_scale=1.0, output_type="pt", **size)
    torch.testing.assert_close(torch.stack(heard), pipe.scheduler.sigmas[:-1], atol=1e-6, rtol=1e-5)


def test_the_source_is_told_the_time_before_the_shift():
    family = load_family("cogview4")
    # 4096 tokens: 0.25 + 0.75 * sqrt(4096 / 256)
    assert family.shift(tiny_pipeline("cogview4").scheduler, 4096) == family.clock_shift(4096) == pytest.approx(3.25)
    sigma_B = torch.tensor([3.25 * 0.5 / (1 + 2.25 * 0.5)])
    torch.testing.assert_close(family.told(sigma_B, 4096), torch.tensor([500.0]))


def test_another_schedule_is_refused():
    pipe = tiny_pipeline("cogview4")
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, base_shift=0.5)
    with pytest.raises(SourceError, match="not the one that this source was trained with"):
        load_family("cogview4").scheduler(pipe)


def test_without_a_lift_no_patch_is_doubled():
    with pytest.raises(SourceError, match="hangs on a noise shift"):
        double_patch(tiny_pixel_pipeline("cogview4"))


@torch.no_grad()
def test_prompts_of_different_length_are_padded_as_the_pipeline_pads():
    family, pipe = load_family("cogview4"), tiny_pipeline("cogview4")
    prompts = [PROMPTS[0], LONG]
    items = family.encode(pipe, prompts)
    assert [len(item["encoder_hidden_states"]) for item in items] == [16, 32]
    ours_BLD = family.collate(pipe.transformer, items, GRID)["encoder_hidden_states"]
    theirs_BLD, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
    assert ours_BLD.shape == theirs_BLD.shape
    # Padding behind padding has one state; words see how much of it there is before them.
    torch.testing.assert_close(ours_BLD[0, :28], theirs_BLD[0, :28], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours_BLD[1], theirs_BLD[1], atol=1e-5, rtol=1e-5)
