import pytest
import torch
from tests.tiny import GRID, HEAD, PROMPTS, noise, size_px, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.errors import ConfigError
from latent2pixel.families import family_of, load_family
from latent2pixel.flow import add_noise, velocity
from latent2pixel.model.predict import predict_velocity
from latent2pixel.seeds import step_generator
from latent2pixel.train import TrainConfig
from latent2pixel.train.batch_loss import BatchLoss
from latent2pixel.train.for_model import sigma_sampler
from latent2pixel.train.step import Draw, transfer_loss
from latent2pixel.train.weighting import Weighting, min_snr_weight

SIGMA_B = torch.tensor([0.02, 0.2, 0.5, 0.9, 0.99])


@pytest.mark.parametrize("objective", ["flow", "eps", "v"])
def test_min_snr_counts_the_error_of_the_image(objective):
    """An error of the image by 1, told as the network's own error, counts min(snr, gamma)."""
    signal_B, noise_B = 1 - SIGMA_B, SIGMA_B
    norm_B = (signal_B**2 + noise_B**2).sqrt()
    a_B, b_B = signal_B / norm_B, noise_B / norm_B  # DDPM's scale
    own_error_B = {"flow": 1 / SIGMA_B, "eps": a_B / b_B, "v": 1 / b_B}[objective]
    counted_B = min_snr_weight(SIGMA_B, objective, gamma=5.0) * own_error_B**2
    torch.testing.assert_close(counted_B, (signal_B / noise_B).square().clamp_max(5.0))


def test_ends_of_the_path_have_finite_weights():
    for objective in ("flow", "eps", "v"):
        assert min_snr_weight(torch.tensor([0.0, 1.0]), objective, gamma=5.0).isfinite().all()


def test_masked_pixels_do_not_count():
    pipe = build_pixel_pipeline(tiny_pipeline("z_image"), head=HEAD, seed=0)
    family, model = family_of(pipe.transformer), pipe.transformer.eval()
    conditioning = family.collate(model, family.encode(pipe, PROMPTS), GRID)
    height, width = size_px("z_image").values()
    images_BCHW, noise_BCHW = noise(2, 3, height, width, seed=1).clamp(-1, 1), noise(2, 3, height, width, seed=2)
    sigma_B = torch.tensor([0.3, 0.8])
    drawn = Draw(noise_BCHW=noise_BCHW, sigma_B=sigma_B, dropped_B=torch.zeros(2, dtype=torch.bool))
    pixels_B1HW = torch.zeros(2, 1, height, width)
    pixels_B1HW[..., : width // 2] = 1
    with torch.no_grad():
        predicted_BCHW = predict_velocity(model, add_noise(images_BCHW, noise_BCHW, sigma_B), sigma_B, conditioning)
        loss = transfer_loss(model, images_BCHW, drawn, conditioning, weighting=Weighting(pixels_B1HW=pixels_B1HW))
    squared_BCHW = (predicted_BCHW - velocity(images_BCHW, noise_BCHW)).square()
    torch.testing.assert_close(loss, squared_BCHW[..., : width // 2].mean() / 2)


def test_logit_normal_levels_lie_in_the_middle_and_are_shifted():
    pipe, family = tiny_pixel_pipeline("z_image"), load_family("z_image")
    draws = {}
    for law in ("source", "logit_normal"):
        sampler = sigma_sampler(family, pipe.scheduler, TrainConfig(sigma_law=law, shift=1.0, logit_std=0.5))
        draws[law] = sampler(4000, num_tokens=4, generator=torch.Generator().manual_seed(0))
    assert draws["logit_normal"].std() < 0.5 * draws["source"].std()
    shifted = sigma_sampler(family, pipe.scheduler, TrainConfig(sigma_law="logit_normal", shift=3.0))
    assert shifted(4000, num_tokens=4, generator=torch.Generator().manual_seed(0)).median() > 0.7


def test_logit_normal_levels_are_refused_where_levels_are_steps():
    pipe = tiny_pixel_pipeline("pixart")
    with pytest.raises(ConfigError, match="whole steps"):
        sigma_sampler(load_family("pixart"), pipe.scheduler, TrainConfig(sigma_law="logit_normal"))


@pytest.mark.parametrize(
    "settings",
    [{"min_snr_gamma": 0.0}, {"logit_std": 0.0}, {"ema_relative_std": 0.3}, {"accumulation_steps": 0}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match="out of range"):
        TrainConfig(**settings)


def test_weights_of_noise_levels_are_refused_for_latents():
    with pytest.raises(ConfigError, match="objective 'images'"):
        TrainConfig(objective="source", min_snr_gamma=5.0)


def test_a_noise_scale_weakens_the_image_in_training_and_sampling(tmp_path):
    """A head that returns no velocity leaves the noise, which the codec makes twice as strong; and so is the loss."""
    pipe = build_pixel_pipeline(tiny_pipeline("z_image"), head=HEAD, noise_scale=2.0)
    pipe.set_progress_bar_config(disable=True)
    for parameter in pipe.transformer.head.out_conv.parameters():
        torch.nn.init.zeros_(parameter)
    family, device = family_of(pipe.transformer), torch.device("cpu")
    folded_BZHW = noise(1, 3 * 64, 8, 12)
    picture = pipe(
        prompt=PROMPTS[:1], **size_px("z_image"), num_inference_steps=2, guidance_scale=0.0, latents=folded_BZHW,
        output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(pipe.vae.decode(picture).sample, 2 * torch.nn.functional.pixel_shuffle(folded_BZHW, 8))
    encoded = dict(zip(PROMPTS, family.encode(pipe, PROMPTS), strict=True))
    config = TrainConfig(caption_dropout=0.0, precision="no")
    image_CHW = torch.full((3, 32, 32), 0.8)
    losses = []
    for scale in (1.0, 2.0):
        loss = BatchLoss(
            family=family, config=config, encoded=encoded.__getitem__, device=device, noise_scale=scale,
            sample_sigmas=sigma_sampler(family, pipe.scheduler, config),
        )  # fmt: skip
        items = [{"image": image_CHW, "prompt": PROMPTS[0], "seed": 0}]
        losses.append(loss(pipe.transformer, items, step=0, places=range(1)).item())
    noise_CHW = torch.randn(3, 32, 32, generator=step_generator(0, 0, 0, 1))
    assert losses == pytest.approx([(noise_CHW - 0.8).square().mean().item(), (noise_CHW - 0.4).square().mean().item()])
