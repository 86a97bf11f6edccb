"""The trainer against a plain loop that shares nothing with it but the seeds of its random numbers."""

import numpy as np
import pytest
import torch
from tests.tiny import HEAD, PROMPTS, tiny_pipeline
from tests.train.run_tiny import SETTINGS, TinyImages, run

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.train.step import step_generator

STEPS, NUM_IMAGES, SHIFT, DROPOUT = 20, 5, 3.0, 0.1


def plain_losses() -> list[float]:
    """Train the tiny Z-Image as the paper says, in forty lines."""
    pipe = build_pixel_pipeline(tiny_pipeline("z_image"), patch_size=16, head=HEAD, seed=0)
    model, images = pipe.transformer, TinyImages()
    model.requires_grad_(False).train()
    for part in (model.layers[0], model.layers[-1], model.all_x_embedder, model.head):
        part.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=SETTINGS["learning_rate"], weight_decay=0.01)
    with torch.no_grad():
        features = {text: pipe.encode_prompt(text, do_classifier_free_guidance=False)[0][0] for text in ("", *PROMPTS)}
    order = torch.cat([torch.randperm(NUM_IMAGES, generator=step_generator(0, epoch)) for epoch in range(9)])
    losses = []
    for step in range(STEPS):
        images_BCHW, noise_BCHW, sigmas, texts = [], [], [], []
        for place in range(2):
            item, numbers = images[int(order[2 * step + place])], step_generator(0, step, place)
            uniform = torch.rand(1, generator=numbers)
            sigmas.append(SHIFT * uniform / (1 + (SHIFT - 1) * uniform))
            texts.append("" if torch.rand(1, generator=numbers) < DROPOUT else item["prompt"])
            noise_BCHW.append(torch.randn(3, 32, 32, generator=step_generator(0, step, place, 1)))
            images_BCHW.append(item["image"])
        clean, noise, sigma = torch.stack(images_BCHW), torch.stack(noise_BCHW), torch.cat(sigmas)
        level = sigma.view(-1, 1, 1, 1)
        # Z-Image is told the share of the image, and returns the velocity from noise to image.
        output = model((1 - level) * clean + level * noise, 1 - sigma, [features[text] for text in texts]).sample
        loss = (-output - (noise - clean)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.param_groups[0]["lr"] = SETTINGS["learning_rate"] * min(1.0, (step + 1) / SETTINGS["warmup_steps"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_trainer_and_plain_loop_have_the_same_losses(tmp_path):
    torch.set_num_threads(1)
    _, report = run(tmp_path, STEPS, caption_dropout=DROPOUT)
    ours, plain = [loss for _, loss in report.losses], plain_losses()
    assert len(set(plain)) == STEPS
    np.testing.assert_allclose(ours, plain, rtol=1e-6)


def test_the_tiny_source_has_the_shift_of_the_plain_loop():
    assert tiny_pipeline("z_image").scheduler.config.shift == pytest.approx(SHIFT)
