"""The one training loop on sources of every kind: tokens, maps, noise prediction, shifts that grow, other patches."""

import pytest
import torch
from tests.tiny import PROMPTS, patch_px, tiny_lift, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.families import load_family
from latent2pixel.train import TrainConfig, train

SETTINGS = {"steps": 3, "batch_size": 2, "num_blocks": 1, "precision": "no", "validate_every": 0, "learning_rate": 1e-3}


class Images(torch.utils.data.Dataset):
    def __init__(self, size_px):
        self.size_px = size_px

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image = torch.rand(3, self.size_px, self.size_px, generator=torch.Generator().manual_seed(index)) * 2 - 1
        return {"image": image, "prompt": PROMPTS[index % 2], "seed": index}


def trained(name, pipe, out, **settings):
    family, size_px = load_family(name), 2 * patch_px(name)
    prompts = [family.null_prompt, *PROMPTS]
    encoded = dict(zip(prompts, family.encode(pipe, prompts), strict=True))
    config = TrainConfig(**{**SETTINGS, "image_size_px": size_px, **settings})
    source = tiny_pipeline(name)
    return train(
        pipe,
        Images(size_px),
        encoded.__getitem__,
        out=out,
        config=config,
        latents=lambda images_BCHW: family.tokens(family.latents(source, images_BCHW)),
    )


@pytest.mark.parametrize("name", ["flux", "sd3", "pixart", "hunyuan_dit", "sana", "qwen"])
def test_recipe_paper_trains(name, tmp_path):
    pipe = tiny_pixel_pipeline(name)
    before = pipe.transformer.head.out_conv.weight.clone()
    report = trained(name, pipe, tmp_path)
    assert len(report.losses) == 3
    assert all(0 < loss < 10 for _, loss in report.losses)
    assert not torch.equal(pipe.transformer.head.out_conv.weight, before)


@pytest.mark.parametrize("name", ["flux", "sana", "qwen"])
def test_recipe_lift_trains_towards_its_source(name, tmp_path):
    pipe = tiny_pixel_pipeline(name, lift=tiny_lift(name))
    before = pipe.transformer.lift.stem.weight.clone()
    report = trained(name, pipe, tmp_path, objective="source")
    assert all(0 < loss < 10 for _, loss in report.losses)
    assert not torch.equal(pipe.transformer.lift.stem.weight, before)
