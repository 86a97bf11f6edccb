"""Finding the family of a transformer, and the noise shift of a scheduler."""

import ast
from pathlib import Path

import pytest
import torch
from tests.tiny import FAMILIES, tiny_pipeline, tiny_pixel_pipeline

import latent2pixel
from latent2pixel.errors import SourceError, UnsupportedFamilyError
from latent2pixel.families import PIXEL_CLASSES, TRANSFORMERS, family_of, load_family
from latent2pixel.families.noise_shift import scaled_shift, shift_of
from latent2pixel.flow import shift_sigma

PACKAGE = Path(latent2pixel.__file__).parent


def test_contract_tests_cover_every_registered_family():
    assert list(TRANSFORMERS) == FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
def test_family_of_source_pixel_model_and_class_name(name):
    family = load_family(name)
    assert family.name == name
    for transformer in (tiny_pipeline(name).transformer, tiny_pixel_pipeline(name).transformer):
        assert family_of(transformer) is family
        assert family_of(type(transformer).__name__) is family


@pytest.mark.parametrize("name", FAMILIES)
def test_declarations_name_real_things(name):
    import diffusers

    family, transformer = load_family(name), tiny_pipeline(name).transformer
    assert family.transformer_class is getattr(diffusers, TRANSFORMERS[name])
    assert all(hasattr(diffusers, pipeline) for pipeline in family.pipeline_names)
    assert type(tiny_pipeline(name)).__name__ in family.pipeline_names
    parts = {key for key, _ in [*transformer.named_modules(), *transformer.named_parameters()]}
    assert {*family.input_projections, *family.tail, *family.image_blocks, *family.unreached(transformer)} <= parts


def test_unknown_transformer_names_the_supported_ones():
    with pytest.raises(UnsupportedFamilyError, match="classes that `l2p families` lists") as caught:
        family_of("UNet2DConditionModel")
    assert caught.value.found == "UNet2DConditionModel"


def test_family_names_appear_nowhere_else():
    """Registry and modules are the only places that know a family."""
    words = {*TRANSFORMERS, *TRANSFORMERS.values(), *PIXEL_CLASSES}
    guilty = []
    # The miniature is a real model of one family, so its own package names it.
    rooms = [room for room in PACKAGE.iterdir() if room.is_dir() and room.name not in ("families", "world")]
    assert len(rooms) > 10
    for room in rooms:
        for path in room.rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
            names |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            guilty += [f"{path.name}: {word}" for word in words & names]
    assert guilty == []


def test_shift_of_a_static_scheduler():
    from diffusers import FlowMatchEulerDiscreteScheduler

    assert shift_of(FlowMatchEulerDiscreteScheduler(shift=3.0), 4096) == 3.0
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_shift(6.0)
    assert shift_of(scheduler, 4096) == 6.0
    assert shift_of(scaled_shift(scheduler, 2.5), 4096) == 15.0


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_shift_of_a_scheduler_that_shifts_with_the_image_is_what_the_pipeline_does(kind):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    settings = {"base_shift": 0.4, "max_shift": 1.3, "base_image_seq_len": 64, "max_image_seq_len": 1024}
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind, **settings)
    for factor in (1.0, 2.5):
        either = scaled_shift(scheduler, factor)
        for num_tokens in (256, 4096):
            shifts = (either.config.base_shift, either.config.max_shift)
            either.set_timesteps(sigmas=[1.0, 0.5], mu=calculate_shift(num_tokens, 64, 1024, *shifts))
            assert shift_of(either, num_tokens) == pytest.approx(factor * shift_of(scheduler, num_tokens))
            expected = shift_sigma(torch.tensor([1.0, 0.5]), shift_of(either, num_tokens))
            torch.testing.assert_close(either.sigmas[:-1], expected)


def test_schedulers_without_shift_are_refused():
    from diffusers import DDPMScheduler

    for refused in (lambda: shift_of(DDPMScheduler(), 4096), lambda: scaled_shift(DDPMScheduler(), 2.0)):
        with pytest.raises(SourceError, match="no noise shift"):
            refused()


@pytest.mark.parametrize("variant", [{"all_patch_size": (2, 4), "all_f_patch_size": (1, 1)}, {"siglip_feat_dim": 32}])
def test_z_image_variants_that_are_not_plain_text_to_image_are_refused(variant):
    config = dict(tiny_pipeline("z_image").transformer.config)
    with pytest.raises(SourceError, match="plain text-to-image"):
        load_family("z_image").pixel_config({**config, **variant}, 8)
