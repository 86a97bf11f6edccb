"""What trains: the published counts on the real 6B configuration, built on the meta device."""

import pytest
from accelerate import init_empty_weights
from tests.tiny import tiny_pixel_pipeline

from latent2pixel.errors import ConfigError
from latent2pixel.families import load_pixel_class
from latent2pixel.model.freezing import describe, freeze_all_but, trainable_names


@pytest.fixture(scope="module")
def z_image_6b():
    from diffusers import ZImageTransformer2DModel

    with init_empty_weights():
        source = ZImageTransformer2DModel()  # the defaults are the released 6B configuration
    return load_pixel_class("z_image").from_config_of(source.config)


@pytest.fixture(scope="module")
def tiny_model():
    return tiny_pixel_pipeline("z_image").transformer


def test_whole_model_has_the_released_files_545_tensors(z_image_6b):
    share = describe(z_image_6b, trainable_names(z_image_6b))
    assert share.num_tensors == 545
    assert share.num_total == 6_166_464_515  # released file: 6.166 B


@pytest.mark.parametrize(
    ("preset", "num_trainable", "percent"), [("paper", 1_822_141_443, 30), ("released", 2_548_257_795, 41)]
)
def test_published_shares(z_image_6b, preset, num_trainable, percent):
    share = describe(z_image_6b, trainable_names(z_image_6b, preset=preset, num_blocks=5))
    assert share.num_trainable == num_trainable
    assert round(100 * share.share) == percent


def test_warm_up_of_the_lift_trains_ten_million_of_six_billion():
    from diffusers import ZImageTransformer2DModel

    with init_empty_weights():
        source = ZImageTransformer2DModel()
    lifted = load_pixel_class("z_image").from_config_of(source.config, lift_scale=1.0)
    names = [name for name, _ in lifted.named_parameters() if name.startswith(("head.", "lift.stem."))]
    warmed = describe(lifted, names)
    assert warmed.num_trainable == 10_151_299
    assert warmed.num_total == 6_167_813_315
    towards_source = describe(lifted, trainable_names(lifted, to_tokens=True))
    output_side = describe(lifted, trainable_names(lifted, preset="output", to_tokens=True))
    assert (towards_source.num_trainable, output_side.num_trainable) == (1_813_321_856, 905_784_384)


def test_paper_trains_projection_head_and_end_blocks(tiny_model):
    modules = {".".join(name.split(".")[:2]) for name in trainable_names(tiny_model, preset="paper", num_blocks=1)}
    head = {f"head.{part}" for part in ("enc", "bottleneck", "up", "dec", "out_conv")}
    assert modules == {"all_x_embedder.2-1", "layers.0", "layers.3", *head}


def test_released_freezes_only_the_middle_blocks(tiny_model):
    trainable = set(trainable_names(tiny_model, preset="released", num_blocks=1))
    frozen = {name for name, _ in tiny_model.named_parameters()} - trainable
    assert {".".join(name.split(".")[:2]) for name in frozen} == {"layers.1", "layers.2"}


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_num_blocks_from_none_to_all(tiny_model, preset):
    def blocks(num_blocks):
        names = trainable_names(tiny_model, preset=preset, num_blocks=num_blocks)
        return {name.split(".")[1] for name in names if name.startswith("layers.")}

    assert blocks(0) == set()
    assert blocks(2) == blocks(3) == blocks(4) == {"0", "1", "2", "3"}


def test_freeze_all_but(tiny_model):
    names = trainable_names(tiny_model, preset="paper", num_blocks=1)
    freeze_all_but(tiny_model, names)
    assert tuple(name for name, value in tiny_model.named_parameters() if value.requires_grad) == names
    with pytest.raises(KeyError, match=r"head\.nothing"):
        freeze_all_but(tiny_model, ["head.nothing"])


@pytest.mark.parametrize("options", [{"preset": "all"}, {"num_blocks": 5}, {"num_blocks": -1}])
def test_unknown_preset_and_too_many_blocks_are_refused(tiny_model, options):
    with pytest.raises(ConfigError):
        trainable_names(tiny_model, **{"num_blocks": 1, **options})
