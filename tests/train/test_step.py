import math
from functools import partial

import pytest
import torch
from tests.tiny import GRID, HEAD, PROMPTS, noise, tiny_lift, tiny_pipeline
from torch.nn import functional

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.families import family_of
from latent2pixel.flow import sample_sigmas
from latent2pixel.model.freezing import frozen_copy
from latent2pixel.seeds import step_generator
from latent2pixel.train.step import (
    Draw,
    Teacher,
    distillation_loss,
    draw,
    learning_rate_at,
    transfer_loss,
)


def test_draws_depend_on_seed_and_counters_alone():
    def numbers(*counters):
        return torch.rand(4, generator=step_generator(*counters))

    assert torch.equal(numbers(0, 5, 1), numbers(0, 5, 1))
    different = [numbers(0, 5, 1), numbers(0, 5, 0), numbers(0, 4, 1), numbers(1, 5, 1)]
    assert len({tuple(values.tolist()) for values in different}) == 4


def test_fixed_noise_follows_the_image_not_the_step():
    def noise(step, seeds):
        return draw(
            (3, 4, 4),
            sample_sigmas=partial(sample_sigmas, shift=3.0),
            caption_dropout=0.0,
            seed=0,
            step=step,
            places=range(2),
            noise_seeds=seeds,
        ).noise_BCHW

    assert torch.equal(noise(1, [7, 8]), noise(2, [7, 8]))
    assert torch.equal(noise(1, [7, 8])[0], noise(1, [8, 7])[1])


def test_draws_do_not_depend_on_how_a_batch_is_shared():
    def drawn(places):
        return draw(
            (3, 4, 4),
            sample_sigmas=partial(sample_sigmas, shift=3.0),
            caption_dropout=0.5,
            seed=3,
            step=7,
            places=places,
        )

    whole, shared = drawn(range(6)), [drawn(range(rank, 6, 2)) for rank in range(2)]
    for key in ("noise_BCHW", "sigma_B", "dropped_B"):
        values = getattr(whole, key)
        assert all(torch.equal(getattr(shared[rank], key), values[rank::2]) for rank in range(2))
        assert len(values.unique(dim=0)) > 1


def test_dropout_share_is_what_was_asked_for():
    drawn = draw(
        (1, 1, 1),
        sample_sigmas=partial(sample_sigmas, shift=1.0),
        caption_dropout=0.25,
        seed=0,
        step=0,
        places=range(4000),
    )
    assert drawn.dropped_B.float().mean().item() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


def test_learning_rate_rises_holds_and_falls():
    rates = [learning_rate_at(step, peak=1.0, steps=10, warmup_steps=2, cooldown_steps=4) for step in range(10)]
    assert rates == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_loss_is_the_squared_distance_to_eps_minus_x0():
    """With its output convolution zeroed the model predicts velocity 0, so the loss is mean((eps - x0)**2)."""
    pipe = build_pixel_pipeline(tiny_pipeline("z_image"), patch_size=16, head=HEAD, seed=0)
    for parameter in pipe.transformer.head.out_conv.parameters():
        torch.nn.init.zeros_(parameter)
    family = family_of(pipe.transformer)
    conditioning = family.collate(pipe.transformer, family.encode(pipe, PROMPTS), GRID)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    drawn = Draw(
        noise_BCHW=torch.randn(2, 3, 32, 32), sigma_B=torch.tensor([0.3, 0.8]), dropped_B=torch.zeros(2, dtype=bool)
    )
    loss = transfer_loss(pipe.transformer, images, drawn, conditioning)
    assert loss.item() == pytest.approx((drawn.noise_BCHW - images).pow(2).mean().item(), rel=1e-5)


def test_one_step_moves_the_prediction_towards_the_velocity():
    """The sign of the whole chain: a gradient step on the loss must bring the pipeline's own output closer."""
    pipe = build_pixel_pipeline(tiny_pipeline("z_image"), patch_size=16, head=HEAD, seed=0)
    family = family_of(pipe.transformer)
    conditioning = family.collate(pipe.transformer, family.encode(pipe, PROMPTS[:1]), GRID)
    image = torch.full((1, 3, 32, 32), 0.7)
    drawn = Draw(
        noise_BCHW=torch.randn(1, 3, 32, 32), sigma_B=torch.tensor([0.9]), dropped_B=torch.zeros(1, dtype=bool)
    )
    optimizer = torch.optim.SGD(pipe.transformer.head.parameters(), lr=0.5)
    for _ in range(20):
        transfer_loss(pipe.transformer, image, drawn, conditioning).backward()
        optimizer.step()
        optimizer.zero_grad()
    brighter = pipe(
        prompt=PROMPTS[:1], height=32, width=32, num_inference_steps=1, guidance_scale=0.0, output_type="np",
        latents=torch.nn.functional.pixel_unshuffle(drawn.noise_BCHW, 8),
    ).images  # fmt: skip
    assert brighter.mean() > 0.65  # 0.7 in [-1, 1] is 0.85 in [0, 1]; the opposite sign gives below 0.5


@torch.no_grad()
def test_distillation_of_an_exact_lift_costs_nothing_until_the_trunk_changes():
    """With a linear VAE the lifted model is its source; a changed last block is told from its teacher."""
    fit = tiny_lift()
    pipe = build_pixel_pipeline(tiny_pipeline("z_image"), head=HEAD, lift=fit)
    family, model = family_of(pipe.transformer), pipe.transformer
    conditioning = family.collate(pipe.transformer, family.encode(pipe, PROMPTS), GRID)
    latents_Bdhw = noise(2, 16, 2, 2, seed=5)
    patches_BDhw = fit.scale * torch.einsum("bdhw,Dd->bDhw", latents_Bdhw, fit.basis_Dd)
    images_BCHW = functional.pixel_shuffle(patches_BDhw + fit.decode_bias_D.view(-1, 1, 1), 16)
    drawn = Draw(
        noise_BCHW=noise(*images_BCHW.shape, seed=6),
        sigma_B=torch.tensor([0.3, 0.9]),
        dropped_B=torch.zeros(2, dtype=torch.bool),
    )
    teacher = Teacher(model=frozen_copy(model), latents=lambda _: latents_Bdhw)
    # rounding of float32
    assert distillation_loss(model, images_BCHW, drawn, conditioning, teacher=teacher) < 1e-9
    for parameter in model.layers[-1].parameters():
        parameter.mul_(3)
    assert distillation_loss(model, images_BCHW, drawn, conditioning, teacher=teacher) > 1e-4
