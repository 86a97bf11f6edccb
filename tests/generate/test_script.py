"""What rehearsal finds of a stock pipeline's loop, and that it leaves the pipeline as it was."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tests.generate.tiled import STEPS, call_of, pipeline

from latent2pixel.errors import ConfigError
from latent2pixel.flow import sigma_schedule
from latent2pixel.generate.script import read_script


@pytest.mark.parametrize("guided", [False, True])
def test_weights_are_those_of_euler_steps_and_guidance(guided):
    """Z-Image: the network's answer is minus the velocity, guidance g means ``p + g (p - n)``, static shift 3."""
    pipe = pipeline("z_image")
    script = read_script(pipe, **call_of("z_image", pipe, guided=guided))
    scale = 2.0 if guided else 0.0
    for step, sigma, after in zip(script.steps, *_ends(sigma_schedule(STEPS, shift=3.0)), strict=True):
        assert step.keep == pytest.approx(1, abs=1e-6)
        (call,) = step.calls
        width = sigma - after
        expected = [(1 + scale) * width, -scale * width] if guided else [width]
        assert call.weights == pytest.approx(expected, abs=1e-6)
        assert call.conditioning["t"][0] == pytest.approx(1 - sigma, abs=1e-6)


def _ends(sigmas_S):
    return sigmas_S[:-1].tolist(), sigmas_S[1:].tolist()


def test_two_calls_a_step_keep_their_own_prompts():
    """FLUX asks twice where others ask once for two samples."""
    pipe = pipeline("flux")
    for step in read_script(pipe, **call_of("flux", pipe, guided=True)).steps:
        prompted, empty = step.calls
        assert len(prompted.weights) == len(empty.weights) == 1
        assert prompted.weights[0] == pytest.approx(-2 * empty.weights[0], rel=1e-5)
        states = [call.conditioning["encoder_hidden_states"] for call in step.calls]
        assert not torch.equal(*states)


def test_prompts_are_kept_once_for_all_steps():
    pipe = pipeline("sd3")
    calls = [step.calls[0] for step in read_script(pipe, **call_of("sd3", pipe, guided=True)).steps]
    assert len({id(call.conditioning["encoder_hidden_states"]) for call in calls}) == 1
    assert len({float(call.conditioning["timestep"][0]) for call in calls}) == STEPS


def test_noise_folds():
    """FLUX.2 draws the noise of tokens of 2 x 2 cells, Z-Image that of cells."""
    for name, fold in (("flux2", 2), ("z_image", 1)):
        pipe = pipeline(name)
        for dtype in (torch.float32, torch.bfloat16):
            pipe.to(dtype)
            assert read_script(pipe, **call_of(name, pipe, guided=False)).noise_fold == fold


@pytest.mark.parametrize("name", ["z_image", "sd3", "hunyuan_image"])
def test_pipeline_is_as_it_was(name):
    pipe = pipeline(name)
    model, vae = pipe.transformer, pipe.vae
    config, attributes = dict(model.config), {key: vars(model).get(key) for key in ("in_channels", "out_channels")}
    call = call_of(name, pipe, guided=False)
    prompt = list(call["prompt"])
    read_script(pipe, **call)
    assert dict(model.config) == config
    assert {key: vars(model).get(key) for key in attributes} == attributes
    assert "forward" not in vars(model)
    assert pipe.vae is vae
    assert call["prompt"] == prompt


def test_pipeline_is_as_it_was_after_an_error():
    pipe = pipeline("z_image")
    config = dict(pipe.transformer.config)
    with pytest.raises(TypeError):
        read_script(pipe, **call_of("z_image", pipe, guided=False), no_such_option=1)
    assert dict(pipe.transformer.config) == config
    assert "forward" not in vars(pipe.transformer)


def test_scheduler_that_adds_noise_is_refused():
    pipe = pipeline("z_image")
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    with pytest.raises(ConfigError, match="no weighted sum"):
        read_script(pipe, **call_of("z_image", pipe, guided=False))


def test_guidance_that_looks_at_the_size_of_answers_is_refused():
    """Renormalised guidance multiplies by one number an image: a fit to one rehearsal alone would not see it."""
    pipe = pipeline("z_image")
    call = {**call_of("z_image", pipe, guided=True), "cfg_normalization": 1.0}
    with pytest.raises(ConfigError, match="depend on the answers"):
        read_script(pipe, **call)


def test_calls_with_several_images_are_refused():
    pipe = pipeline("z_image")
    call = {**call_of("z_image", pipe, guided=False), "prompt": ["a red circle", "a blue square"]}
    with pytest.raises(ConfigError, match="several images"):
        read_script(pipe, **call)
