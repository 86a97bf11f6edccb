"""Faster sampling is the same sampling: pictures equal the plain stock pipeline's, and less is computed."""

import pytest
import torch
from tests.tiny import FAMILIES, PROMPTS, full_prompts, size_px, tiny_lift, tiny_pixel_pipeline
from torch import nn

from latent2pixel.families import family_of, load_family
from latent2pixel.generate.prepare import KEPT_PROMPTS, Remembering, prepare_for_sampling, remembering
from latent2pixel.model.compute import compile_parts

STEPS = 3


@torch.no_grad()
def picture(pipe, prompt=PROMPTS[1], *, seed=0, steps=STEPS):
    """Sample a guided picture with the stock pipeline."""
    family = family_of(pipe.transformer)
    options = family.call_options(pipe, guidance_scale=3.0, num_prompts=1)
    generator = torch.Generator().manual_seed(seed)
    call = {**size_px(family.name), **options, "num_inference_steps": steps, "output_type": "pt"}
    return family.images(pipe, prompt=[prompt], generator=generator, **call)


def constant_modules(pipe):
    """Return what runs once a prompt: the named modules, of lists their members."""
    found = []
    for name in pipe.transformer.trunk.same_at_every_step:
        module = pipe.transformer.get_submodule(name)
        found += list(module) if isinstance(module, nn.ModuleList) else [module]
    return found


def counted(modules):
    """Return a list that grows by one with every call of one of some modules."""
    calls = []
    for module in modules:
        module.register_forward_pre_hook(lambda module, _: calls.append(module))
    return calls


def assert_same_picture(ours, plain):
    # Kernels in another layout sum in another order; 1e-4 is a fortieth of an 8-bit level.
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_are_those_of_the_plain_pipeline(name):
    """Two prompts in turn and again: nothing that is kept may serve where another prompt, seed or size came in."""
    lift = {"lift": tiny_lift(name)} if load_family(name).objective == "flow" else {}
    plain, ours = (tiny_pixel_pipeline(name, **lift) for _ in range(2))
    short, long = full_prompts(name)
    calls = [(long, 0), (short, 0), (long, 1), (long, 0)]
    expected = [picture(plain, prompt, seed=seed) for prompt, seed in calls]
    assert not torch.equal(expected[0], expected[1])
    prepare_for_sampling(ours)
    with remembering(ours):
        for (prompt, seed), plain_picture in zip(calls, expected, strict=True):
            assert_same_picture(picture(ours, prompt, seed=seed), plain_picture)


@pytest.mark.parametrize("name", [name for name in FAMILIES if load_family(name).same_at_every_step])
def test_what_is_the_same_at_every_step_runs_once(name):
    """Once for prompt and negative prompt each at most, over all steps of two pictures."""
    pipe = tiny_pixel_pipeline(name)
    modules = constant_modules(pipe)
    calls = counted(modules)
    picture(pipe)
    assert all(calls.count(module) >= STEPS for module in modules)
    calls.clear()
    with remembering(pipe):
        picture(pipe)
        picture(pipe, seed=1)
    assert all(1 <= calls.count(module) <= 2 for module in modules)


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_prompts_are_encoded_once(name):
    pipe = tiny_pixel_pipeline(name)
    encoders = [part for key, part in pipe.components.items() if key.startswith("text_encoder") and part is not None]
    # All that is in them: some pipelines pass the outermost module over.
    calls = counted(module for encoder in encoders for module in encoder.modules())
    picture(pipe, steps=2)
    once = len(calls)
    assert once > 0
    calls.clear()
    with remembering(pipe):
        for seed in range(3):
            picture(pipe, seed=seed, steps=2)
    assert len(calls) == once


def test_the_pipeline_is_as_it_was_afterwards():
    pipe = tiny_pixel_pipeline("z_image")
    names, modules = list(pipe.transformer.state_dict()), list(pipe.transformer.modules())
    encode_prompt = pipe.encode_prompt
    with remembering(pipe):
        assert any(isinstance(module, Remembering) for module in pipe.transformer.modules())
    assert list(pipe.transformer.state_dict()) == names
    assert list(pipe.transformer.modules()) == modules
    assert pipe.encode_prompt == encode_prompt


def test_a_module_forgets_all_but_the_last_two_calls():
    calls = counted([inner := nn.Identity()])
    module = Remembering(inner)
    first, second, third = torch.zeros(2), torch.ones(2), torch.full((2,), 2.0)
    for given in (first, second, first.clone(), second.clone()):
        assert torch.equal(module(given), given)
    assert len(calls) == 2
    for given in (third, first, second):
        assert torch.equal(module(given), given)
    assert len(calls) == 5  # the third took the place of the first, which took that of the second


@pytest.mark.parametrize("other", [torch.zeros(2, dtype=torch.float64), torch.zeros(1, 2), torch.tensor([0.0, 1e-9])])
def test_a_module_tells_arguments_apart_to_the_last_bit(other):
    calls = counted([inner := nn.Identity()])
    module = Remembering(inner)
    module(torch.zeros(2))
    assert torch.equal(module(other), other)
    assert len(calls) == 2


def test_only_so_many_prompts_are_kept():
    pipe = tiny_pixel_pipeline("z_image")
    calls = counted([pipe.text_encoder])
    with remembering(pipe):
        for index in range(KEPT_PROMPTS + 1):
            pipe.encode_prompt("red " * (index + 1), do_classifier_free_guidance=False)
        assert len(calls) == KEPT_PROMPTS + 1
        pipe.encode_prompt("red " * (KEPT_PROMPTS + 1), do_classifier_free_guidance=False)
        assert len(calls) == KEPT_PROMPTS + 1
        pipe.encode_prompt("red ", do_classifier_free_guidance=False)
        assert len(calls) == KEPT_PROMPTS + 2


def test_compiled_parts_make_the_same_picture():
    """Traced as when compiled, but run by torch itself: a compiler of C++ takes minutes here."""
    plain, ours = (tiny_pixel_pipeline("z_image") for _ in range(2))
    compile_parts(ours.transformer, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    with remembering(ours):
        assert_same_picture(picture(ours), picture(plain))
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


def test_head_is_laid_out_for_its_convolutions():
    pipe = tiny_pixel_pipeline("z_image")
    kernel = pipe.transformer.head.enc[1][0].weight
    assert not kernel.is_contiguous(memory_format=torch.channels_last)
    prepare_for_sampling(pipe)
    assert pipe.transformer.head.enc[1][0].weight.is_contiguous(memory_format=torch.channels_last)
