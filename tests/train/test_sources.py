"""The one training loop on sources of every kind: tokens, maps, noise prediction, shifts that grow, other patches."""

import pytest
import torch
from tests.tiny import PROMPTS, patch_px, tiny_lift, tiny_pipeline, tiny_pixel_pipeline

from latent2pixel.data.batch_plan import BatchPlan
from latent2pixel.data.batches import Batches
from latent2pixel.families import load_family
from latent2pixel.train import TrainConfig, train

SETTINGS = {"steps": 3, "batch_size": 2, "num_blocks": 1, "precision": "no", "validate_every": 0, "learning_rate": 1e-3}


class Images(torch.utils.data.Dataset):
    def __init__(self, size_px, told=None):
        self.size_px, self.told = size_px, told

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image = torch.rand(3, self.size_px, self.size_px, generator=torch.Generator().manual_seed(index)) * 2 - 1
        item = {"image": image, "prompt": PROMPTS[index % 2], "seed": index}
        return item if self.told is None else {**item, "told": self.told(image)}


def trained(name, pipe, out, told=None, **settings):
    family, size_px = load_family(name), 2 * patch_px(name)
    prompts = [family.null_prompt, *PROMPTS]
    encoded = dict(zip(prompts, family.encode(pipe, prompts), strict=True))
    config = TrainConfig(**{**SETTINGS, "image_size_px": size_px, **settings})
    source = tiny_pipeline(name)
    return train(
        pipe,
        Batches(
            Images(size_px, told), BatchPlan([0] * 4, batch_size=config.batch_size, seed=config.seed), seed=config.seed
        ),
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


def test_codes_of_images_are_told_except_where_the_caption_is_dropped(tmp_path):
    """GLM-Image: with every caption dropped the codes change nothing, otherwise they do."""

    def losses(folder, *, shift, **settings):
        pipe, source = tiny_pixel_pipeline("glm"), tiny_pipeline("glm")
        report = trained("glm", pipe, tmp_path / folder, told=told_by(source, shift), **settings)
        assert len(report.losses) == 3
        return report.losses

    def told_by(source, shift):
        def told(image_CHW):
            item = load_family("glm").encode_images(source, image_CHW[None])[0]
            return {"prior_token_id": (item["prior_token_id"] + shift) % 24}

        return told

    own = {"caption_dropout": 0.0}
    assert losses("told", shift=0, **own) != losses("told otherwise", shift=1, **own)
    dropped = {"caption_dropout": 1 - 1e-9}  # 1 is out of range
    assert losses("dropped", shift=0, **dropped) == losses("dropped otherwise", shift=1, **dropped)


def test_the_teacher_is_told_of_images_too(tmp_path):
    source = tiny_pipeline("glm")
    report = trained(
        "glm",
        tiny_pixel_pipeline("glm", lift=tiny_lift("glm")),
        tmp_path,
        told=lambda image_CHW: load_family("glm").encode_images(source, image_CHW[None])[0],
        objective="source",
        caption_dropout=0.0,
    )
    assert all(0 < loss < 10 for _, loss in report.losses)


def test_a_family_that_reads_images_needs_to_be_told(tmp_path):
    with pytest.raises(KeyError, match="told"):
        trained("glm", tiny_pixel_pipeline("glm"), tmp_path, caption_dropout=0.0)
