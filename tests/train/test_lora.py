"""LoRAs of a run: where they are, what they begin as, what trains beside them."""

import pytest
import torch
from tests.tiny import GRID, PROMPTS, noise, patch_px, tiny_lift, tiny_pixel_pipeline
from tests.train.run_tiny import run
from tests.train.test_trainer import losses

from latent2pixel.errors import ConfigError
from latent2pixel.families import family_of
from latent2pixel.model import freezing
from latent2pixel.model.predict import predict, predict_tokens
from latent2pixel.model.trunk import is_under
from latent2pixel.train import TrainConfig
from latent2pixel.train.for_model import rate_groups, trained_names, trained_share
from latent2pixel.train.frozen_weights import FrozenLinear
from latent2pixel.train.lora import DOWN, UP, add_lora, is_lora, lora_layers
from latent2pixel.train.prepare import prepare_model

pytest.importorskip("peft")
RANK = 2
CONFIG = TrainConfig(lora_rank=RANK, lora_alpha=6.0, precision="no")
CPU = torch.device("cpu")


def hidden_states(pipe):
    """Return what the trunk hands to the head: beside the noisy image, an untrained head hardly reads it."""
    family, model = family_of(pipe.transformer), pipe.transformer
    noisy_BCHW = noise(2, 3, *(size * patch_px(family.name) for size in GRID))
    seen = []
    handle = model.head.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    conditioning = family.collate(model, family.encode(pipe, PROMPTS), GRID)
    predict(model, noisy_BCHW, torch.tensor([0.3, 0.8]), conditioning)
    handle.remove()
    return seen[0]


def tokens(pipe):
    """Return the clean latent tokens that a lifted model predicts."""
    family, model = family_of(pipe.transformer), pipe.transformer
    conditioning = family.collate(model, family.encode(pipe, PROMPTS), GRID)
    noisy_BCHW = noise(2, 3, *(16 * size for size in GRID))
    return predict_tokens(model, noisy_BCHW, torch.tensor([0.3, 0.8]), conditioning)


def disturb(model):
    """Let the LoRAs, which begin without effect, do something."""
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if name.endswith(UP):
            parameter.data = 0.05 * noise(*parameter.shape, seed=number)


@pytest.mark.parametrize("name", ["z_image", "qwen"])  # the second has parts that no gradient reaches
def test_lora_is_on_all_blocks_and_trains_beside_the_new_parts(name):
    pipe = tiny_pixel_pipeline(name)
    model, family = pipe.transformer, family_of(pipe.transformer)
    linear = {key for key, module in model.named_modules() if type(module) is torch.nn.Linear}
    linear = {key for key in linear if is_under(key, family.image_blocks)}
    before = hidden_states(pipe)
    prepared = prepare_model(model, CONFIG, device=CPU, latents=None)
    assert torch.equal(hidden_states(pipe), before)
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    adapted = {key.removesuffix(DOWN) for key in trained if key.endswith(DOWN)}
    assert adapted == {key for key in linear if not is_under(key, family.unreached(model))}
    assert {key for key in trained if not is_lora(key)} == {
        key for key, _ in model.named_parameters() if is_under(key, family.new_parts)
    }
    assert prepared.share == freezing.describe(model, list(trained))
    disturb(model)
    assert not torch.allclose(hidden_states(pipe), before, atol=1e-3)
    hidden_states(pipe).square().mean().backward()
    # A parameter without a gradient would stall a run of several processes.
    adapters = {key: parameter for key, parameter in trained.items() if is_lora(key)}
    assert [key for key, parameter in adapters.items() if parameter.grad is None or not parameter.grad.any()] == []


def test_lora_starts_from_the_seed_alone():
    def drawn(seed):
        model = tiny_pixel_pipeline("z_image").to(torch.bfloat16).transformer
        state = torch.get_rng_state()
        names = add_lora(model, list(lora_layers(model)), rank=RANK, alpha=None, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return {name: model.get_parameter(name) for name in names}

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(value, again[name]) and value.dtype == torch.float32 for name, value in first.items())
    downs = [name for name in first if name.endswith(DOWN)]
    assert not any(torch.equal(first[name], other[name]) for name in downs)
    name = "layers.0.attention.to_q" + DOWN
    inputs = first[name].shape[1]
    assert first[name].abs().max() <= inputs**-0.5  # as nn.Linear
    assert not torch.equal(first[name], first[name.replace("to_q", "to_k")])
    assert not any(value.any() for key, value in first.items() if key.endswith(UP))


@pytest.mark.parametrize("kind", ["stored", "int8"])
def test_the_teacher_has_no_lora(kind):
    if kind == "int8":
        pytest.importorskip("torchao")
    pipe = tiny_pixel_pipeline("z_image", lift=tiny_lift())
    config = TrainConfig(lora_rank=RANK, precision="no", objective="source", frozen_weights=kind)
    prepared = prepare_model(pipe.transformer, config, device=CPU, latents=lambda images: images)
    teacher = prepared.teacher.model
    expected = tokens(pipe)
    disturb(pipe.transformer)
    assert not torch.allclose(tokens(pipe), expected, atol=1e-3)
    assert not any(map(is_lora, dict(teacher.named_parameters())))
    pipe.transformer, trained = teacher, pipe.transformer
    assert torch.equal(tokens(pipe), expected)
    layer = trained.get_submodule("layers.0.attention.to_q.base_layer")
    assert isinstance(layer, FrozenLinear) == (kind == "int8")
    # One copy in memory, the teacher's.
    assert layer._parameters["weight"] is teacher.get_submodule("layers.0.attention.to_q")._parameters["weight"]
    parameters = dict(trained.named_parameters())
    assert parameters["all_final_layer.2-1.linear.weight"].requires_grad  # the tail trains as before


def test_lora_moves_at_the_rate_of_the_new_parts():
    pipe = tiny_pixel_pipeline("z_image", lift=tiny_lift())
    prepare_model(pipe.transformer, CONFIG, device=CPU, latents=None)
    trained = {name: each for name, each in pipe.transformer.named_parameters() if each.requires_grad}
    new_parts = family_of(pipe.transformer).new_parts
    groups = {group["rate_factor"]: group["params"] for group in rate_groups(trained, new_parts=new_parts, factor=0.5)}
    assert {id(each) for each in groups[1.0]} == {
        id(each) for name, each in trained.items() if is_lora(name) or is_under(name, new_parts)
    }
    assert len(groups[0.5]) > 0


def test_run_goes_on_with_the_same_losses(tmp_path):
    settings = {"lora_rank": RANK, "gradient_checkpointing": True}
    whole, _ = run(tmp_path / "whole", 4, **settings)
    run(tmp_path / "broken", 2, **settings)
    broken, _ = run(tmp_path / "broken", 4, **settings)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    found = dict(broken.transformer.named_parameters())
    assert all(torch.equal(found[name], value) for name, value in whole.transformer.named_parameters())
    assert all(found[name].any() for name in found if name.endswith(UP))


def test_trained_pipeline_in_bfloat16_makes_images_outside_of_autocast(tmp_path):
    pipe, _ = run(tmp_path, 2, dtype=torch.bfloat16, precision="bf16", lora_rank=RANK)
    image = pipe(PROMPTS[0], height=32, width=32, num_inference_steps=1, guidance_scale=0.0, output_type="pt").images
    assert image.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lora_rank": -1}, "out of range"),
        ({"lora_rank": 2, "lora_alpha": 0.0}, "out of range"),
        ({"lora_alpha": 2.0}, "no LoRA whose product"),
        ({"lora_rank": 2, "freezing": "output"}, "no gradient through them"),
        ({"lora_rank": 2, "compile": True}, "not compiled"),
        ({"lora_rank": 2, "block_offload": True}, "whole, on the device"),
        ({"lora_rank": 2, "shard_frozen": True}, "whole, on the device"),
    ],
)
def test_settings_that_a_lora_does_not_allow_are_refused(settings, match):
    with pytest.raises(ConfigError, match=match):
        TrainConfig(**settings)


def test_transformer_without_adapters_is_refused():
    model = tiny_pixel_pipeline("pixart").transformer
    assert trained_names(model, CONFIG)
    with pytest.raises(ConfigError, match="no LoRA into this transformer"):
        trained_share(model, CONFIG)
