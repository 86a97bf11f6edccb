"""What every family promises, against its real diffusers classes at tiny size."""

import copy

import pytest
import torch
from tests.tiny import (
    FAMILIES,
    FINAL_LAYER,
    PROMPTS,
    OracleHead,
    noise,
    source_sample,
    tiny_pipeline,
    tiny_pixel_pipeline,
)
from torch.nn import functional

from latent2pixel import flow
from latent2pixel.families import load_family
from latent2pixel.model.freezing import freeze_all_but, trainable_names
from latent2pixel.model.predict import predict_velocity

pytestmark = pytest.mark.parametrize("name", FAMILIES)
SIGMA_B = torch.tensor([0.25, 0.75])
HEIGHT, WIDTH = 64, 96  # 4 x 6 tokens: not square, and 24 is no multiple of 32, so Z-Image pads


def conditioning(name, pipe, prompts=PROMPTS):
    family = load_family(name)
    return family.collate(family.encode(pipe, prompts), device="cpu", dtype=pipe.transformer.dtype)


def record_feature(model, recorded):
    """Keep the feature map that the head receives."""
    return model.head.register_forward_pre_hook(lambda _, arguments: recorded.append(arguments[1].detach()))


@torch.no_grad()
def feature_map(pipe, noisy_BCHW, sigma_B, cond):
    recorded = []
    hook = record_feature(pipe.transformer, recorded)
    predict_velocity(pipe.transformer, noisy_BCHW, sigma_B, cond)
    hook.remove()
    return recorded[0]


def test_clock_and_tokens_undo_each_other(name):
    family = load_family(name)
    sigma_B = torch.linspace(0, 1, 9)
    torch.testing.assert_close(family.sigma(family.timestep(sigma_B)), sigma_B, atol=1e-6, rtol=0)
    tokens_Bdhw = noise(2, 16, 3, 5)
    assert torch.equal(family.tokens(family.untokens(tokens_Bdhw)), tokens_Bdhw)


@torch.no_grad()
def test_latents_are_undone_as_stock_pipelines_decode(name):
    family, pipe = load_family(name), tiny_pipeline(name)
    pipe.vae.register_to_config(scaling_factor=0.7, shift_factor=0.5)
    images_BCHW = noise(2, 3, 32, 48)
    latents_BZHW = family.read(family.latents(pipe, images_BCHW), 1)
    mean_BZHW = pipe.vae.encode(images_BCHW).latent_dist.mode()
    torch.testing.assert_close(latents_BZHW / 0.7 + 0.5, mean_BZHW)


def test_tokens_are_what_the_input_projection_receives(name):
    family, pipe = load_family(name), tiny_pipeline(name)
    received = []
    projection = pipe.transformer.get_submodule(family.input_projections[0])
    projection.register_forward_pre_hook(lambda _, arguments: received.append(arguments[0]))
    sample = source_sample(name, 2, 3, 5)
    call = {family.sample_argument: sample, family.timestep_argument: family.timestep(SIGMA_B)}
    with torch.no_grad():
        pipe.transformer(**call, **conditioning(name, pipe))
    tokens_BLd = family.tokens(sample).flatten(2).movedim(1, -1)
    for item, expected_Ld in enumerate(tokens_BLd):
        per_image = received[0].unflatten(0, (2, -1))[item]  # padding tokens follow the image's own
        assert torch.equal(per_image[:15], expected_Ld)


@torch.no_grad()
def test_trunk_is_bit_identical_to_the_source(name):
    """Equal tokens in: the last hidden states of both trunks are equal, bit for bit, on every image token."""
    family, source, pixel = load_family(name), tiny_pipeline(name), tiny_pixel_pipeline(name)
    cond, rows, columns = conditioning(name, source), 4, 6
    tokens, hidden, features = [], [], []
    projection = family.input_projections[0]
    source.transformer.get_submodule(projection).register_forward_hook(lambda _m, _a, output: tokens.append(output))
    source.transformer.get_submodule(FINAL_LAYER[name]).register_forward_pre_hook(
        lambda _m, args: hidden.append(args[0])
    )
    clock = {family.timestep_argument: family.timestep(SIGMA_B)}
    source.transformer(**{family.sample_argument: source_sample(name, 2, rows, columns)}, **clock, **cond)

    pixel.transformer.get_submodule(projection).register_forward_hook(lambda _m, _a, _o: tokens[0])
    record_feature(pixel.transformer, features)
    predict_velocity(pixel.transformer, noise(2, 3, HEIGHT, WIDTH), SIGMA_B, cond)
    image_tokens = features[0].flatten(2).transpose(1, 2)
    assert image_tokens.std() > 0.1
    # image tokens stand first in every block's sequence, in order
    assert torch.equal(image_tokens, hidden[0][:, : rows * columns])


def test_one_step_lands_on_a_known_image(name):
    """Sign, clock and pixel order at once: the exact velocity must lead the stock pipeline to the image."""
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    target = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3)) * 1.8 - 0.9
    pipe.transformer.head = OracleHead(target, sign=family.sign, sigma=1.0)  # the first step starts at sigma 1
    images = pipe(
        PROMPTS, height=HEIGHT, width=WIDTH, num_inference_steps=1, guidance_scale=2.0, output_type="pt"
    ).images
    # 1e-5: a few roundings of values up to 5, the largest noise; a wrong sign or order is off by more than 0.1
    torch.testing.assert_close(images, (target / 2 + 0.5).expand(2, -1, -1, -1), atol=1e-5, rtol=0)


def test_many_steps_stay_on_the_straight_path(name):
    """The running sample of the stock pipeline is the noisy image of the flow, at the clock of the family."""
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    clean, noisy, clocks = noise(1, 3, HEIGHT, WIDTH, seed=5).clamp(-1, 1), [], []
    start = noise(1, 3, HEIGHT, WIDTH, seed=6)
    head = OracleHead(clean, sign=family.sign, sigma=1.0)
    pipe.transformer.head = head
    schedule = flow.sigma_schedule(4, shift=family.shift(pipe.scheduler))

    def set_clock(_module, args, kwargs):
        given = kwargs.get(family.timestep_argument, args[1] if len(args) > 1 else None)
        clocks.append(given[0])
        head.sigma = schedule[len(clocks) - 1]

    pipe.transformer.register_forward_pre_hook(set_clock, with_kwargs=True)
    head.register_forward_pre_hook(lambda _, args: noisy.append(args[0]))
    pipe(PROMPTS[0], height=HEIGHT, width=WIDTH, num_inference_steps=4, guidance_scale=0.0, output_type="latent",
         latents=pipe.vae.encode(start).latent_dist.mode())  # fmt: skip
    assert torch.equal(torch.stack(clocks), family.timestep(schedule[:-1]))
    for sample, sigma in zip(noisy, schedule, strict=False):
        expected = flow.add_noise(clean, start, sigma.view(1))
        torch.testing.assert_close(sample, expected, atol=1e-5, rtol=0)  # four steps of float32 rounding


def test_predict_velocity_has_the_sign_of_the_flow(name):
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    clean, eps = noise(2, 3, HEIGHT, WIDTH, seed=1), noise(2, 3, HEIGHT, WIDTH, seed=2)
    sigma_B = torch.tensor([0.5, 0.5])
    pipe.transformer.head = OracleHead(clean, sign=family.sign, sigma=0.5)
    predicted = predict_velocity(
        pipe.transformer, flow.add_noise(clean, eps, sigma_B), sigma_B, conditioning(name, pipe)
    )
    torch.testing.assert_close(predicted, flow.velocity(clean, eps), atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_gradients_reach_exactly_what_trains(name, preset):
    model = (pipe := tiny_pixel_pipeline(name)).transformer.train()
    names = trainable_names(model, preset=preset, num_blocks=1)
    freeze_all_but(model, names)
    cond, gradients = conditioning(name, pipe), []
    for checkpointing in (False, True):
        model.zero_grad(set_to_none=True)
        if checkpointing:
            model.enable_gradient_checkpointing()
        velocity = predict_velocity(model, noise(2, 3, HEIGHT, WIDTH), SIGMA_B, cond)
        functional.mse_loss(velocity, noise(2, 3, HEIGHT, WIDTH, seed=1)).backward()
        gradients.append({key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None})
    plain, checkpointed = gradients
    assert set(plain) == set(names)
    assert [key for key, gradient in plain.items() if not gradient.abs().sum() > 0] == []
    assert all(torch.equal(plain[key], checkpointed[key]) for key in names)


def test_batch_equals_singles(name):
    """Ragged prompts and different noise levels in one batch change nothing."""
    pipe = tiny_pixel_pipeline(name)
    noisy = noise(2, 3, HEIGHT, WIDTH)
    both = feature_map(pipe, noisy, SIGMA_B, conditioning(name, pipe))
    for index, prompt in enumerate(PROMPTS):
        one = feature_map(pipe, noisy[[index]], SIGMA_B[[index]], conditioning(name, pipe, [prompt]))
        # 1e-5: matrix products of another batch size sum in another order
        torch.testing.assert_close(one[0], both[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 32), (16, 128)])
def test_aspect_ratios(name, height, width):
    pipe = tiny_pixel_pipeline(name)
    images = pipe(PROMPTS[0], height=height, width=width, num_inference_steps=1, output_type="pt").images
    assert images.shape == (1, 3, height, width)
    assert images.isfinite().all()


def test_feature_map_keeps_the_tokens_places(name):
    """A changed patch moves the features at its own place most."""
    pipe = tiny_pixel_pipeline(name)
    cond, noisy = conditioning(name, pipe, PROMPTS[:1]), noise(1, 3, HEIGHT, WIDTH)
    changed = noisy.clone()
    changed[..., 32:48, 64:80] += 3.0  # row 2, column 4
    low, high = (feature_map(pipe, image, SIGMA_B[:1], cond) for image in (noisy, changed))
    moved = (high - low).square().sum(1)[0]
    assert divmod(moved.argmax().item(), 6) == (2, 4)


def test_trunk_receives_what_diffusers_sends(name):
    """Same prompt, image and noise level: every argument of the first block is equal, bit for bit."""
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    block = pipe.transformer.get_submodule(family.image_blocks[0])[0]
    recorded, start = [], noise(2, 3, HEIGHT, WIDTH)
    block.register_forward_pre_hook(
        lambda _, args, kwargs: recorded.append([*args, *kwargs.values()]), with_kwargs=True
    )
    pipe(list(PROMPTS), height=HEIGHT, width=WIDTH, num_inference_steps=1, guidance_scale=0.0, output_type="latent",
         sigmas=[0.37], latents=pipe.vae.encode(start).latent_dist.mode())  # fmt: skip
    with torch.no_grad():
        predict_velocity(pipe.transformer, start, pipe.scheduler.sigmas[:1].expand(2), conditioning(name, pipe))
    stock, ours = recorded
    tensors = [isinstance(value, torch.Tensor) for value in stock]
    assert sum(tensors) >= 3
    for theirs, mine in zip(stock, ours, strict=True):
        assert torch.equal(theirs, mine) if isinstance(theirs, torch.Tensor) else theirs == mine


def test_encode_leaves_prompts_alone_and_returns_cacheable_items(name):
    family, pipe = load_family(name), tiny_pipeline(name)
    prompts = list(PROMPTS)
    together = family.encode(pipe, prompts)
    assert prompts == PROMPTS
    assert all(not value.requires_grad and value.device.type == "cpu" for item in together for value in item.values())
    alone = [family.encode(pipe, (prompt,))[0] for prompt in PROMPTS]
    for item, single in zip(together, alone, strict=True):
        assert item.keys() == single.keys()
        assert all(torch.equal(item[key], single[key]) for key in item)


def test_null_prompt_is_what_the_pipeline_uses_without_a_negative_prompt(name):
    family, pipe = load_family(name), tiny_pipeline(name)
    _, negative = pipe.encode_prompt(PROMPTS[0], do_classifier_free_guidance=True)
    ours = family.collate(family.encode(pipe, [family.null_prompt]), device="cpu", dtype=torch.float32)
    assert any(torch.equal(value[0], negative[0]) for value in ours.values())


def test_lora_of_the_source_loads_into_the_pixel_pipeline(name, tmp_path):
    peft = pytest.importorskip("peft")
    source, pixel = tiny_pipeline(name), tiny_pixel_pipeline(name)
    adapted = copy.deepcopy(source.transformer)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    adapted.add_adapter(config)
    weights = peft.utils.get_peft_model_state_dict(adapted)
    type(source).save_lora_weights(tmp_path, transformer_lora_layers=weights)

    cond, noisy = conditioning(name, pixel), noise(2, 3, HEIGHT, WIDTH)
    before = feature_map(pixel, noisy, SIGMA_B, cond)
    pixel.load_lora_weights(tmp_path)
    loaded = [key for key, _ in pixel.transformer.named_parameters() if "lora_A" in key]
    assert len(loaded) == sum("lora_A" in key for key in weights)
    assert not torch.allclose(before, feature_map(pixel, noisy, SIGMA_B, cond), atol=1e-3)
    pixel.unload_lora_weights()
    assert torch.equal(before, feature_map(pixel, noisy, SIGMA_B, cond))


def test_image_to_image_with_the_stock_pipeline(name):
    """The stock image-to-image pipeline encodes and decodes with the codec: a perfect model returns the input."""
    from diffusers import AutoPipelineForImage2Image

    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    image = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    pipe = AutoPipelineForImage2Image.from_pipe(pipe)
    pipe.set_progress_bar_config(disable=True)
    # two steps from the middle of the schedule: only the last one, at sigma 0.75, runs
    pipe.transformer.head = OracleHead(2 * image - 1, sign=family.sign, sigma=0.75)
    result = pipe(
        PROMPTS[0], image=image, strength=0.5, num_inference_steps=2, height=HEIGHT, width=WIDTH, output_type="pt"
    ).images
    torch.testing.assert_close(result, image, atol=1e-5, rtol=0)
