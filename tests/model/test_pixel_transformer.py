"""The pixel transformer: calls, dtypes, geometry, and its zero-copy birth from a source."""

import pickle

import pytest
import torch
from tests.tiny import EXAMPLES, GRID, HEAD, PROMPTS, noise, tiny_pipeline, tiny_pixel_pipeline
from torch import nn
from torch.nn import functional

import latent2pixel
from latent2pixel.errors import GeometryError
from latent2pixel.families import load_family, load_pixel_class, pixel_class_name
from latent2pixel.model.patch import require_patch
from latent2pixel.model.predict import predict_velocity, unwrapped

SIGMA_B = torch.tensor([0.25, 0.75])


def conditioning(name, pipe):
    family = load_family(name)
    return family.collate(pipe.transformer, family.encode(pipe, PROMPTS), GRID)


@pytest.mark.parametrize("name", EXAMPLES)
@torch.no_grad()
def test_native_call_equals_pixel_call(name):
    family, pipe = load_family(name), tiny_pixel_pipeline(name)
    model, noisy = pipe.transformer, noise(2, 3, 64, 96)
    call = {family.timestep_argument: family.timestep(SIGMA_B), **conditioning(name, pipe)}
    sample = family.sample(functional.pixel_unshuffle(noisy, model.codec_factor), call)
    native = model(**{family.sample_argument: sample}, **call).sample
    image = model(**{family.sample_argument: noisy}, **call).sample
    assert image.shape == noisy.shape
    assert torch.equal(torch.stack(native), torch.stack(family.sample(functional.pixel_unshuffle(image, 8), call)))
    assert torch.equal(predict_velocity(model, noisy, SIGMA_B, conditioning(name, pipe)), family.sign * image)


@pytest.mark.parametrize("name", EXAMPLES)
@torch.no_grad()
def test_velocity_leaves_bfloat16_weights_as_float32(name):
    pipe = tiny_pixel_pipeline(name)
    exact = predict_velocity(pipe.transformer, noise(2, 3, 64, 96), SIGMA_B, conditioning(name, pipe))
    pipe.transformer.to(torch.bfloat16)
    received = []
    pipe.transformer.head.register_forward_pre_hook(lambda _, args: received.extend(value.dtype for value in args))
    velocity = predict_velocity(pipe.transformer, noise(2, 3, 64, 96), SIGMA_B, conditioning(name, pipe))
    assert received == [torch.bfloat16, torch.bfloat16]
    assert velocity.dtype == torch.float32
    torch.testing.assert_close(velocity, exact, atol=0.05, rtol=0.05)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("name", EXAMPLES)
def test_running_sample_of_a_bfloat16_pipeline_stays_float32(name):
    pipe = tiny_pixel_pipeline(name)
    pipe.to(torch.bfloat16)
    dtypes = []
    pipe(
        PROMPTS[0],
        height=32,
        width=32,
        num_inference_steps=2,
        callback_on_step_end=lambda _pipe, _step, _time, tensors: dtypes.append(tensors["latents"].dtype) or tensors,
    )
    assert dtypes == [torch.float32] * 2


@pytest.mark.parametrize("name", EXAMPLES)
def test_from_source_shares_storage_and_keeps_random_state(name):
    source = tiny_pipeline(name).transformer
    family, before = load_family(name), torch.get_rng_state()
    model = load_pixel_class(name).from_source(source, head_channels=HEAD, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    theirs, ours = source.state_dict(), model.state_dict()
    shared = {key for key in ours if key in theirs and ours[key].data_ptr() == theirs[key].data_ptr()}
    new = {key for key in ours if key.startswith(("head.", *(f"{part}." for part in family.input_projections)))}
    assert shared == ours.keys() - new
    assert all(tensor.device.type == "cpu" and tensor.isfinite().all() for tensor in ours.values())
    assert not model.training


@pytest.mark.parametrize("name", EXAMPLES)
def test_new_parts_follow_seed_and_take_the_sources_dtype(name):
    source = tiny_pipeline(name).transformer.to(torch.bfloat16)

    def head_weight(seed):
        generator = torch.Generator().manual_seed(seed)
        model = load_pixel_class(name).from_source(source, head_channels=HEAD, generator=generator)
        return model.head.enc[0][0].weight

    assert head_weight(1).dtype == torch.bfloat16
    assert torch.equal(head_weight(1), head_weight(1))
    assert not torch.equal(head_weight(1), head_weight(2))


@pytest.mark.parametrize("name", EXAMPLES)
def test_save_and_load_round_trip(name, tmp_path):
    pipe = tiny_pixel_pipeline(name, head_feature_norm="layer_norm")
    pipe.transformer.save_pretrained(tmp_path)
    loaded = load_pixel_class(name).from_pretrained(tmp_path)
    assert loaded.config["pixel_patch_size"] == 16
    assert loaded.head.feature_norm == "layer_norm"
    cond = conditioning(name, pipe)
    with torch.no_grad():
        first, second = (predict_velocity(m, noise(2, 3, 64, 96), SIGMA_B, cond) for m in (pipe.transformer, loaded))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", EXAMPLES)
def test_exported_class_is_the_packages_own(name):
    pixel_class = load_pixel_class(name)
    class_name = pixel_class_name(load_family(name).transformer_class.__name__)
    assert (pixel_class.__module__, pixel_class.__name__) == ("latent2pixel", class_name)
    assert getattr(latent2pixel, class_name) is pixel_class
    assert pickle.loads(pickle.dumps(pixel_class)) is pixel_class


@pytest.mark.parametrize("name", EXAMPLES)
def test_image_must_divide_into_patches(name):
    pipe = tiny_pixel_pipeline(name)
    with pytest.raises(GeometryError, match="whole patches") as caught:
        predict_velocity(pipe.transformer, noise(2, 3, 64, 90), SIGMA_B, conditioning(name, pipe))
    assert caught.value.found == "64 x 90 px"


@pytest.mark.parametrize(("patch", "levels"), [(16, 4), (16, 3), (64, 6), (64, 4), (8, 3), (2, 1), (24, 3), (160, 5)])
def test_patches_that_fit(patch, levels):
    require_patch(patch, latent_patch=2, num_head_levels=levels)


@pytest.mark.parametrize(("patch", "levels"), [(15, 4), (24, 4), (0, 1), (1, 1), (8, 4), (16, 6), (160, 6)])
def test_patches_that_do_not_fit(patch, levels):
    with pytest.raises(GeometryError):
        require_patch(patch, latent_patch=2, num_head_levels=levels)


def test_smaller_heads_upsample_features():
    """Patch 16 with two levels: the token grid is four times coarser than the bottleneck."""
    pipe = tiny_pixel_pipeline("z_image", head=(4, 8))
    with torch.no_grad():
        velocity = predict_velocity(pipe.transformer, noise(2, 3, 64, 96), SIGMA_B, conditioning("z_image", pipe))
    assert velocity.shape == (2, 3, 64, 96)


def test_unwrapped_looks_through_compile_and_ddp():
    class Wrapper(nn.Module):  # DistributedDataParallel keeps its model under this name
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **call):
            return self.module(**call)

    pipe = tiny_pixel_pipeline("z_image")
    wrapped = Wrapper(torch.compile(pipe.transformer, backend="eager"))
    assert unwrapped(wrapped) is pipe.transformer
    cond = conditioning("z_image", pipe)
    with torch.no_grad():
        plain = predict_velocity(pipe.transformer, noise(2, 3, 64, 96), SIGMA_B, cond)
        assert torch.equal(predict_velocity(Wrapper(pipe.transformer), noise(2, 3, 64, 96), SIGMA_B, cond), plain)
