"""What every family promises, against its real diffusers classes at tiny size."""

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from tests.families.calls import equal, recorded_calls, shown
from tests.tiny import (
    FAMILIES,
    GRID,
    PROMPTS,
    OracleHead,
    full_prompts,
    noise,
    running_latents,
    size_px,
    tiny_lift,
    tiny_pipeline,
    tiny_pixel_pipeline,
    tiny_source,
    whole_grid,
)
from torch.nn import functional

from latent2pixel import flow
from latent2pixel.families import family_of, load_family
from latent2pixel.model.freezing import freeze_all_but, trainable_names
from latent2pixel.model.predict import predict_velocity
from latent2pixel.model.tokens import to_sequence
from latent2pixel.model.trunk import is_under

pytestmark = pytest.mark.parametrize("name", FAMILIES)
SIGMA_B = torch.tensor([0.25, 0.75])


def conditioning(name, pipe, prompts=PROMPTS, grid=GRID):
    family = load_family(name)
    told = getattr(tiny_source(name), "told", lambda grid: {})(grid)  # of every image, where the source reads any
    return family.collate(pipe.transformer, [item | told for item in family.encode(pipe, prompts)], grid)


def pixels(name, batch, *, seed=0, grid=GRID):
    size = size_px(name, grid)
    return noise(batch, 3, size["height"], size["width"], seed=seed)


def latent_map(name, pipe, batch):
    """Return a random latent map of a source."""
    family = load_family(name)
    tokens_Bdhw = noise(batch, family.token_dim(pipe.transformer.config), *GRID)
    return family.untokens(tokens_Bdhw)


def stock(name, pipe, prompts=PROMPTS, *, grid=GRID, **options):
    """Run the stock pipeline for one step unless told otherwise."""
    options = {"num_inference_steps": 1, "output_type": "pt", **tiny_source(name).UNGUIDED, **options}
    adapt = getattr(tiny_source(name), "adapt", lambda pipe, call: call)
    call = adapt(pipe, {"prompt": list(prompts), **size_px(name, grid), **options})
    return SimpleNamespace(images=load_family(name).images(pipe, **call))


def sigmas_of(scheduler):
    """Return the noise levels of a scheduler's steps on the straight path."""
    if not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("use_flow_sigmas"):
        return scheduler.sigmas[: len(scheduler.timesteps)]
    alphas = scheduler.alphas_cumprod[scheduler.timesteps.long()].double()
    return ((1 - alphas).sqrt() / ((1 - alphas).sqrt() + alphas.sqrt())).float()


def first_sigma(pipe):
    """Return the noise level of the first of one step: a flow starts at pure noise, DDPM just before."""
    family = family_of(pipe.transformer)
    if family.objective == "flow":
        return getattr(tiny_source(family.name), "FIRST_SIGMA", 1.0)
    return family.sigma(torch.tensor([999])).item()


def assert_told(name, clock_B, sigma_B):
    """Check what a stock pipeline tells the transformer at noise levels: some schedulers drop fractions of steps."""
    expected_B = load_family(name).told(sigma_B, GRID[0] * GRID[1])
    if getattr(tiny_source(name), "WHOLE_STEPS", False):
        expected_B = expected_B.floor()
    torch.testing.assert_close(clock_B, expected_B, atol=getattr(tiny_source(name), "CLOCK_ATOL", 0.0), rtol=0)


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
    family, pipe = load_family(name), tiny_pipeline(name)
    if family.objective == "flow":
        sigma_B = torch.linspace(0, 1, 9)
        torch.testing.assert_close(family.sigma(family.timestep(sigma_B)), sigma_B, atol=1e-6, rtol=0)
    else:
        steps_B = torch.arange(1000)
        assert torch.equal(family.timestep(family.sigma(steps_B)).long(), steps_B)
    map_BZHW, cond = latent_map(name, pipe, 2), conditioning(name, pipe)
    assert torch.equal(family.untokens(family.tokens(map_BZHW)), map_BZHW)
    sample = family.sample(map_BZHW, cond)
    assert torch.equal(family.map_of({**cond, family.sample_argument: sample}), map_BZHW)


@torch.no_grad()
def test_latents_are_undone_as_the_stock_pipeline_decodes(name):
    family, pipe = load_family(name), tiny_pipeline(name)
    token_px, decoded = family.token_px(pipe), []
    images_BCHW = noise(2, 3, GRID[0] * token_px, GRID[1] * token_px).clamp(-1, 1)
    latents = running_latents(name, family.latents(pipe, images_BCHW))
    pipe.scheduler.step = lambda *_, **__: SchedulerOutput(prev_sample=latents)
    decode = pipe.vae.decode
    pipe.vae.decode = lambda latents, *args, **kwargs: decoded.append(latents) or decode(latents, *args, **kwargs)
    stock(name, pipe)
    mean_BZHW = family.vae_mean(pipe, images_BCHW)
    assert mean_BZHW.std() > 0.01
    torch.testing.assert_close(torch.cat(decoded).view_as(mean_BZHW), mean_BZHW, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_tokens_are_what_the_input_projection_projects(name):
    family, pipe = load_family(name), tiny_pipeline(name)
    map_BZHW, cond, projected = latent_map(name, pipe, 2), conditioning(name, pipe, full_prompts(name)), []
    projection = pipe.transformer.get_submodule(family.input_projections[0])
    projection.register_forward_hook(lambda _m, _a, output: projected.append(output))
    sample = family.sample(map_BZHW, cond)
    pipe.transformer(**{family.sample_argument: sample, family.timestep_argument: family.timestep(SIGMA_B)}, **cond)
    tokens_BLd = to_sequence(family.tokens(map_BZHW))
    expected_BLw = functional.linear(tokens_BLd, projection.weight.flatten(1), projection.bias)
    found = projected[0]
    if isinstance(projection, torch.nn.Conv2d):
        found = to_sequence(found)
    for item, expected_Lw in enumerate(expected_BLw):
        per_image = found.reshape(2, -1, found.shape[-1])[item]
        # other tokens may stand before or behind the image's own
        starts = range(per_image.shape[0] - len(expected_Lw) + 1)
        near = [torch.allclose(per_image[s : s + len(expected_Lw)], expected_Lw, atol=1e-5) for s in starts]
        assert any(near)


@torch.no_grad()
def test_trunk_is_bit_identical_to_the_source(name):
    """Equal tokens in: the last hidden states of both trunks are equal, bit for bit, on every image token."""
    family, source, pixel = load_family(name), tiny_pipeline(name), tiny_pixel_pipeline(name)
    cond = conditioning(name, source, full_prompts(name))
    tokens, hidden, features = [], [], []
    projection = family.input_projections[0]
    source.transformer.get_submodule(projection).register_forward_hook(lambda _m, _a, output: tokens.append(output))
    source.transformer.get_submodule(family.tail[0]).register_forward_pre_hook(
        lambda _m, args, kwargs: hidden.append(args[0] if args else next(iter(kwargs.values()))), with_kwargs=True
    )
    clock = {family.timestep_argument: family.told(SIGMA_B, GRID[0] * GRID[1])}
    source.transformer(**{family.sample_argument: family.sample(latent_map(name, source, 2), cond)}, **clock, **cond)

    pixel.transformer.get_submodule(projection).register_forward_hook(lambda _m, _a, _o: tokens[0])
    record_feature(pixel.transformer, features)
    predict_velocity(pixel.transformer, pixels(name, 2), SIGMA_B, cond)
    image_BLD = to_sequence(features[0])
    assert image_BLD.std() > 0.1
    joint_BLD = getattr(tiny_source(name), "batch_first", lambda hidden: hidden)(hidden[0])
    for joint_LD, image_LD in zip(joint_BLD, image_BLD, strict=True):
        starts = range(len(joint_LD) - len(image_LD) + 1)
        assert any(torch.equal(joint_LD[start : start + len(image_LD)], image_LD) for start in starts)


def test_one_step_lands_on_a_known_image(name):
    """Sign, clock and pixel order at once: the exact velocity must lead the stock pipeline to the image."""
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    target = torch.rand(pixels(name, 1).shape, generator=torch.Generator().manual_seed(3)) * 1.8 - 0.9
    head = pipe.transformer.head = OracleHead(target, family=family, sigma=first_sigma(pipe))
    if family.objective == "flow":  # multistep schedulers begin just before pure noise
        pipe.transformer.register_forward_pre_hook(lambda *_: setattr(head, "sigma", sigmas_of(pipe.scheduler)[0]))
    prompts = PROMPTS[: getattr(tiny_source(name), "GUIDED_BATCH", None)]  # a batch that some pipelines cannot guide
    images = stock(name, pipe, prompts, **tiny_source(name).GUIDED).images
    # 1e-5: a few roundings of values up to 5, the largest noise; DDPM divides them by the image's small share. A wrong
    # sign or order is off by more than 0.1.
    atol = 1e-5 if family.objective == "flow" else 2e-3
    torch.testing.assert_close(images, (target / 2 + 0.5).expand(len(prompts), -1, -1, -1), atol=atol, rtol=0)


def test_many_steps_stay_on_the_straight_path(name):
    """The running sample of the stock pipeline is the noisy image of the flow, at the clock of the family."""
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    clean, start, noisy = pixels(name, 1, seed=5).clamp(-1, 1), pixels(name, 1, seed=6), []
    head = OracleHead(clean, family=family, sigma=1.0)
    pipe.transformer.head = head
    calls = recorded_calls(pipe.transformer)
    head.register_forward_pre_hook(lambda _, args: noisy.append(args[0]))
    per_step = getattr(tiny_source(name), "CALLS_PER_STEP", 1)
    pipe.transformer.register_forward_pre_hook(
        lambda *_: setattr(head, "sigma", sigmas_of(pipe.scheduler)[(len(calls) - 1) // per_step])
    )
    folded_BZHW = functional.pixel_unshuffle(start, pipe.transformer.codec_factor)
    stock(name, pipe, PROMPTS[:1], num_inference_steps=4, latents=running_latents(name, folded_BZHW))
    schedule = sigmas_of(pipe.scheduler)
    assert len(schedule) == 4
    clocks = torch.stack([call[family.timestep_argument][0] for call in calls[::per_step]])
    assert_told(name, clocks, schedule)
    # Some begin with pure noise where their schedule still has a little of the image.
    norm = 1.0 if family.objective == "flow" else ((1 - schedule[0]) ** 2 + schedule[0] ** 2).sqrt()
    start = (start * norm - (1 - schedule[0]) * clean) / schedule[0]
    for sample, sigma in zip(noisy[::per_step], schedule, strict=True):
        expected = flow.network_input(flow.add_noise(clean, start, sigma.view(1)), sigma.view(1), family.objective)
        torch.testing.assert_close(sample, expected, atol=1e-5, rtol=0)  # four steps of float32 rounding


def test_predict_velocity_has_the_sign_of_the_flow(name):
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    clean, eps = pixels(name, 2, seed=1), pixels(name, 2, seed=2)
    sigma_B = torch.tensor([0.5, 0.5])
    pipe.transformer.head = OracleHead(clean, family=family, sigma=0.5)
    noisy = flow.add_noise(clean, eps, sigma_B)
    predicted = predict_velocity(pipe.transformer, noisy, sigma_B, conditioning(name, pipe))
    torch.testing.assert_close(predicted, flow.velocity(clean, eps), atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_gradients_reach_exactly_what_trains(name, preset):
    model = (pipe := tiny_pixel_pipeline(name)).transformer.train()
    names = trainable_names(model, preset=preset, num_blocks=1)
    freeze_all_but(model, names)
    cond, gradients = conditioning(name, pipe, full_prompts(name)), []
    for checkpointing in (False, True) if model._supports_gradient_checkpointing else (False, False):
        model.zero_grad(set_to_none=True)
        if checkpointing:
            model.enable_gradient_checkpointing()
        velocity = predict_velocity(model, pixels(name, 2), SIGMA_B, cond)
        functional.mse_loss(velocity, pixels(name, 2, seed=1)).backward()
        gradients.append({key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None})
    plain, checkpointed = gradients
    assert set(plain) == set(names)
    assert [key for key, gradient in plain.items() if not gradient.abs().sum() > 0] == []
    assert all(torch.equal(plain[key], checkpointed[key]) for key in names)


def test_ten_steps_lower_the_loss_of_one_batch(name):
    pipe = tiny_pixel_pipeline(name)
    model = pipe.transformer.train()
    freeze_all_but(model, trainable_names(model, preset="paper", num_blocks=1))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    cond, eps, losses = conditioning(name, pipe), pixels(name, 2, seed=1), []
    clean = torch.full_like(eps, 0.5)
    for _ in range(10):
        predicted = predict_velocity(model, flow.add_noise(clean, eps, SIGMA_B), SIGMA_B, cond)
        loss = functional.mse_loss(predicted, flow.velocity(clean, eps))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_batch_equals_singles(name):
    """Ragged prompts and different noise levels in one batch change nothing."""
    pipe = tiny_pixel_pipeline(name)
    noisy = pixels(name, 2)
    prompts = getattr(tiny_source(name), "PROMPTS", PROMPTS)
    both = feature_map(pipe, noisy, SIGMA_B, conditioning(name, pipe, prompts))
    for index, prompt in enumerate(prompts):
        one = feature_map(pipe, noisy[[index]], SIGMA_B[[index]], conditioning(name, pipe, [prompt]))
        # 1e-4 of the scale: matrix products of another batch size sum in another order
        torch.testing.assert_close(one[0], both[index], atol=1e-4 * both.abs().max().item(), rtol=0)


@pytest.mark.parametrize("grid", [(4, 4), (6, 2), (1, 8)])
def test_aspect_ratios(name, grid):
    pipe, grid = tiny_pixel_pipeline(name), whole_grid(name, grid)
    images = stock(name, pipe, PROMPTS[:1], grid=grid).images
    assert images.shape == pixels(name, 1, grid=grid).shape
    assert images.isfinite().all()


@torch.no_grad()
def test_guidance_reaches_the_stock_pipeline(name):
    """The family's own options: both scales run at the size asked for, and make different pictures."""
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    weak, strong = (
        family.images(
            pipe,
            prompt=PROMPTS[:1],
            **size_px(name),
            num_inference_steps=2,
            output_type="pt",
            generator=torch.Generator().manual_seed(0),
            **family.call_options(pipe, guidance_scale=scale, num_prompts=1),
        )
        for scale in (2.0, 6.0)
    )
    assert weak.shape == strong.shape == pixels(name, 1).shape
    assert not torch.equal(weak, strong)


def test_feature_map_keeps_the_tokens_places(name):
    """A changed patch moves the features at its own place most."""
    pipe = tiny_pixel_pipeline(name)
    patch = pipe.transformer.config["pixel_patch_size"]
    cond, noisy = conditioning(name, pipe, PROMPTS[:1]), pixels(name, 1)
    changed = noisy.clone()
    changed[..., 2 * patch : 3 * patch, 4 * patch : 5 * patch] += 3.0  # row 2, column 4
    low, high = (feature_map(pipe, image, SIGMA_B[:1], cond) for image in (noisy, changed))
    moved = (high - low).square().sum(1)[0]
    assert divmod(moved.argmax().item(), GRID[1]) == (2, 4)


@torch.no_grad()
def test_trunk_receives_what_diffusers_sends(name):
    """Same prompts and size: every argument beside sample and clock is equal, bit for bit."""
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    calls = recorded_calls(pipe.transformer)
    stock(name, pipe, full_prompts(name))
    first = shown(name, calls[0])
    sent = {key: value for key, value in first.items() if value is not None and key != "return_dict"}
    sample, clock = sent.pop(family.sample_argument), sent.pop(family.timestep_argument)
    cond = conditioning(name, pipe, full_prompts(name))
    ours = {key: value for key, value in cond.items() if value is not None}
    ignored = getattr(tiny_source(name), "IGNORED", ())  # without meaning: each says why
    sent = {key: value for key, value in sent.items() if key not in ignored and value != {}}
    assert ours.keys() == sent.keys()
    assert [key for key in sent if not equal(sent[key], ours[key])] == []
    assert any(isinstance(value, (torch.Tensor, list)) for value in sent.values())
    # and in the layout that stock pipelines use for a pixel image
    assert_told(name, clock.expand(2), sigmas_of(pipe.scheduler)[:1].expand(2))
    assert equal(sample, family.sample(family.map_of(calls[0]), ours))


def test_encode_leaves_prompts_alone_and_returns_cacheable_items(name):
    family, pipe = load_family(name), tiny_pipeline(name)
    prompts = list(full_prompts(name))
    together = family.encode(pipe, prompts)
    assert prompts == full_prompts(name)
    for item in together:
        assert all(value.is_contiguous() and not value.requires_grad and not value.is_cuda for value in item.values())
    alone = [family.encode(pipe, (prompt,))[0] for prompt in prompts]
    for item, single in zip(together, alone, strict=True):
        assert item.keys() == single.keys()
        for key in item:  # another batch size sums in another order
            torch.testing.assert_close(item[key], single[key], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_null_prompt_is_what_the_pipeline_uses_without_a_negative_prompt(name):
    pipe = tiny_pixel_pipeline(name)
    calls = recorded_calls(pipe.transformer)
    options = {key: value for key, value in tiny_source(name).GUIDED.items() if key != "negative_prompt"}
    negative = {"negative_prompt": ""} if len(options) < len(tiny_source(name).GUIDED) else {}
    stock(name, pipe, PROMPTS[:1], **options, **negative)
    ours = conditioning(name, pipe, [load_family(name).null_prompt])
    texts = [key for key, value in ours.items() if is_text(value)]
    assert texts
    for key in texts:
        axis = getattr(tiny_source(name), "BATCH_AXIS", {}).get(key, 0)
        rows = [row for call in calls for row in as_rows(shown(name, call)[key], axis)]
        assert any(begins_with(row, as_rows(ours[key], axis)[0]) for row in rows)


def begins_with(row, mine):
    """Tell whether an argument's row is another, followed by zeros: pipelines pad the shorter of two prompts."""
    fits = row.shape[1:] == mine.shape[1:] and len(row) >= len(mine)
    return fits and torch.equal(row[: len(mine)], mine) and not row[len(mine) :].any()


def is_text(value):
    """Tell whether an argument holds states of a text encoder."""
    return any(row.is_floating_point() and row.ndim and row.shape[-1] >= 24 for row in as_rows(value))


def as_rows(value, axis=0):
    """Return the samples of a batched argument; of a list, which holds samples, or batches of states (B, L, width)."""
    if isinstance(value, torch.Tensor):
        return list(value.unbind(axis)) if value.ndim else []
    tensors = [row for row in value if isinstance(row, torch.Tensor)] if isinstance(value, (list, tuple)) else []
    return [row for tensor in tensors for row in (tensor if tensor.ndim == 3 else [tensor])]


def test_saved_pipeline_loads_as_it_was(name, tmp_path):
    from diffusers import DiffusionPipeline

    pipe = tiny_pixel_pipeline(name, **({"lift": tiny_lift(name)} if load_family(name).objective == "flow" else {}))
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.transformer) is type(pipe.transformer)
    before, after = (
        stock(name, each, PROMPTS[:1], generator=torch.Generator().manual_seed(0)).images for each in (pipe, loaded)
    )
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)  # memory formats differ, and with them the sums


def test_bfloat16_keeps_in_float32_what_the_source_keeps(name, tmp_path):
    pipe = tiny_pixel_pipeline(name)
    pipe.transformer.save_pretrained(tmp_path / "pixel")
    tiny_pipeline(name).transformer.save_pretrained(tmp_path / "source")
    source, pixel = (
        type(each).from_pretrained(tmp_path / folder, torch_dtype=torch.bfloat16)
        for each, folder in ((tiny_pipeline(name).transformer, "source"), (pipe.transformer, "pixel"))
    )
    kept = [
        {key for key, value in model.named_parameters() if value.dtype == torch.float32} for model in (source, pixel)
    ]
    assert {key for key in kept[0] if not is_under(key, load_family(name).tail)} <= kept[1]
    assert bool(kept[0]) == bool(source._keep_in_fp32_modules)


def test_lora_of_the_source_loads_into_the_pixel_model(name):
    peft = pytest.importorskip("peft")
    family, source, pixel = load_family(name), tiny_pipeline(name), tiny_pixel_pipeline(name)
    if not hasattr(source.transformer, "add_adapter"):
        assert not hasattr(pixel.transformer, "add_adapter")  # nothing is lost
        return
    adapted = copy.deepcopy(source.transformer)
    targets = [key for key, part in adapted.named_modules() if isinstance(part, torch.nn.Linear) and "att" in key]
    assert targets
    # A LoRA may also change what the pixel model has anew: that part of it must not come along.
    gone = [key for key in family.input_projections if isinstance(adapted.get_submodule(key), torch.nn.Linear)]
    targets += gone
    adapted.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False))
    weights = peft.utils.get_peft_model_state_dict(adapted)

    cond, noisy = conditioning(name, pixel), pixels(name, 2)
    before = feature_map(pixel, noisy, SIGMA_B, cond)
    prefixed = {f"transformer.{key}": value for key, value in weights.items()}
    pixel.transformer.load_lora_adapter(prefixed, prefix="transformer", adapter_name="tiny")
    loaded = [key for key, _ in pixel.transformer.named_parameters() if "lora_A" in key]
    assert len(loaded) == sum("lora_A" in key for key in weights) - len(gone)
    assert not torch.allclose(before, feature_map(pixel, noisy, SIGMA_B, cond), atol=1e-3)
    pixel.transformer.unload_lora()
    assert torch.equal(before, feature_map(pixel, noisy, SIGMA_B, cond))


def test_image_to_image_with_the_stock_pipeline(name):
    """The stock image-to-image pipeline encodes and decodes with the codec: a perfect model returns the input."""
    from diffusers import AutoPipelineForImage2Image

    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    image = torch.rand(pixels(name, 1).shape, generator=torch.Generator().manual_seed(0))
    try:
        from_text, pipe = type(pipe), AutoPipelineForImage2Image.from_pipe(pipe)
    except ValueError:
        from_text = type(pipe)
    # There may be none, or images are references for it and not what it begins with.
    has_it = type(pipe) is not from_text
    assert has_it == getattr(tiny_source(name), "IMAGE_TO_IMAGE", False)
    if not has_it:
        return
    pipe.set_progress_bar_config(disable=True)
    head = pipe.transformer.head = OracleHead(2 * image - 1, family=family, sigma=1.0)
    calls = recorded_calls(pipe.transformer)
    pipe.transformer.register_forward_pre_hook(
        lambda *_: setattr(head, "sigma", family.sigma(calls[-1][family.timestep_argument][0].float()))
    )
    options = {"num_inference_steps": 2, "output_type": "pt", **tiny_source(name).UNGUIDED}
    result = pipe(prompt=PROMPTS[0], image=image, strength=0.5, **size_px(name), **options).images
    torch.testing.assert_close(result, image, atol=1e-5, rtol=0)
