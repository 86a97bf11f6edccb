"""Feature networks: real tiny ones of transformers, exported ones, the fixed filters; what is missing is told."""

import json

import pytest
import torch
from tests.evaluate.tiny_clip import PREPROCESSING, save_tiny_clip, save_with_preprocessing
from tests.tiny.parts import tokenizer
from torch import nn
from transformers import CLIPModel, Dinov2Config, Dinov2Model

from latent2pixel.errors import CheckpointError, ConfigError, DataError
from latent2pixel.evaluate.clip_score import load_clip
from latent2pixel.evaluate.features import (
    LOADERS,
    load_exported,
    load_filters,
    load_inception,
    load_transformer,
    read_preprocessing,
)
from latent2pixel.evaluate.filter_features import filter_features

LONG = "a red circle to the left of the blue square"


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28))
    return save_with_preprocessing(model, tmp_path_factory.mktemp("features") / "tiny-dino")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("features") / "tiny-clip")


def test_transformer_gives_its_pooled_features(dino_folder):
    """Equal to the model's own on images that need no resizing, colours normalised as the folder says."""
    network = load_transformer(dino_folder)
    image_BCHW = noise(3, 3, 32, 32)
    mean, std = (torch.tensor(PREPROCESSING[key]).view(-1, 1, 1) for key in ("image_mean", "image_std"))
    with torch.no_grad():
        model = Dinov2Model.from_pretrained(dino_folder).eval()
        expected_BD = model(((image_BCHW / 2 + 0.5) - mean)[..., 2:30, 2:30] / std).pooler_output
    assert torch.allclose(network.features(image_BCHW), expected_BD, atol=1e-5)
    record = network.as_json()
    assert record["name"] == "transformers/tiny-dino"
    assert record["model"] == "Dinov2Model"
    assert len(record["weights"]) == 64
    json.dumps(record)


def test_clip_gives_projected_features(clip_folder):
    assert load_transformer(clip_folder).features(noise(2, 3, 40, 60)).shape == (2, 12)


def test_preprocessing_resizes_the_shorter_side_and_crops_the_centre(dino_folder):
    """A wide picture whose middle is white and whose ends are black: the crop sees the middle."""
    prepare, text = read_preprocessing(dino_folder)
    image_BCHW = torch.full((1, 3, 64, 192), -1.0)
    image_BCHW[..., 60:132] = 1
    prepared_BCHW = prepare(image_BCHW)
    assert prepared_BCHW.shape == (1, 3, 28, 28)
    white_C11 = (1 - torch.tensor(PREPROCESSING["image_mean"]).view(-1, 1, 1)) / torch.tensor(
        PREPROCESSING["image_std"]
    ).view(-1, 1, 1)
    assert torch.allclose(prepared_BCHW, white_C11.expand_as(prepared_BCHW), atol=1e-4)
    assert "shorter side 32 px" in text


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({"size": 20, "crop_size": 16, "do_center_crop": True}, (16, 16)),
        ({"size": {"height": 24, "width": 12}, "do_center_crop": False, "crop_size": None}, (24, 12)),
    ],
)
def test_both_ways_to_write_sizes_are_read(tmp_path, sizes, shape):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING | sizes))
    prepare, _ = read_preprocessing(tmp_path)
    assert prepare(noise(1, 3, 40, 60)).shape[-2:] == shape


def test_clip_scores_are_cosines_of_image_and_prompt(clip_folder):
    scorer, image_BCHW, prompts = (
        load_clip(clip_folder),
        noise(3, 3, 32, 32),
        ["a red circle", "two", "the blue square"],
    )
    scores_B = scorer.scores(image_BCHW, prompts)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = tokenizer()(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=scorer.prepare(image_BCHW)
        )
    cosines_B = (output.image_embeds * output.text_embeds).sum(-1)
    assert scores_B.tolist() == pytest.approx((100 * cosines_B.clamp(min=0)).tolist(), abs=1e-3)
    assert cosines_B.min() < 0 < cosines_B.max()


def test_prompts_that_are_too_long_are_counted(clip_folder):
    scorer = load_clip(clip_folder)
    assert scorer.max_tokens == 8
    assert scorer.num_truncated(["a red circle", LONG, LONG]) == 2
    longer = scorer.scores(noise(1, 3, 32, 32), [LONG])
    assert longer.tolist() == scorer.scores(noise(1, 3, 32, 32), [LONG + " to the left"]).tolist()


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3)

    def forward(self, image_BCHW):
        return self.convolution(image_BCHW).mean((-2, -1))


def test_exported_networks_are_taken_in_both_formats(tmp_path):
    torch.manual_seed(0)
    network, image_BCHW = Pooled().eval(), noise(2, 3, 16, 16)
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    torch.export.save(torch.export.export(network, (image_BCHW,), dynamic_shapes=(sizes,)), tmp_path / "net.pt2")
    torch.jit.trace(network, image_BCHW).save(tmp_path / "net.pt")
    other_BCHW = noise(5, 3, 24, 32, seed=1)
    expected_BD = network(other_BCHW).detach()
    for name in ("net.pt2", "net.pt"):
        loaded = load_exported(tmp_path / name)
        assert torch.allclose(loaded.features(other_BCHW), expected_BD, atol=1e-6)
        assert loaded.name == "exported/net"
        assert loaded.as_json()["file"] == name
    resized = load_exported(tmp_path / "net.pt2", size_px=16).features(noise(1, 3, 16, 16))
    assert torch.allclose(resized, network(noise(1, 3, 16, 16)), atol=1e-5)


class Inception(nn.Module):
    """Has the calls of the published file: bytes in; features, or probabilities without the output's bias."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(3, 4)

    def forward(self, images, return_features: bool = False, no_output_bias: bool = False):
        features = images.float().mean((2, 3))
        if return_features:
            return features
        logits = features @ self.output.weight.t() / 100
        return (logits if no_output_bias else logits + self.output.bias).softmax(1)


def test_inception_is_given_bytes_and_gives_features_and_classes(tmp_path):
    torch.manual_seed(0)
    network = Inception()
    torch.jit.script(network).save(tmp_path / "inception.pt")
    loaded = load_inception(tmp_path / "inception.pt")
    white_and_grey_BCHW = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    features_BD = loaded.features(white_and_grey_BCHW)
    assert features_BD.tolist() == [[255.0] * 3, [128.0] * 3]
    expected_BK = (features_BD @ network.output.weight.T / 100).softmax(1)
    assert torch.allclose(loaded.logits(white_and_grey_BCHW).softmax(1), expected_BK, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("inception", "curl -L --create-dirs -o {path} https://nvlabs-fi-cdn.nvidia.com/"),
        ("transformer", "hf download facebook/dinov2-base --local-dir {path}"),
        ("exported", "torch.export.save(torch.export.export(network, (images,)), '{path}')"),
    ],
)
def test_missing_weights_give_the_command(tmp_path, kind, words):
    path = tmp_path / "absent.pt2"
    with pytest.raises(ConfigError) as caught:
        LOADERS[kind](path)
    assert words.format(path=path) in caught.value.fix


def test_a_missing_clip_gives_the_command(tmp_path):
    with pytest.raises(ConfigError, match="hf download zer0int/LongCLIP-L-Diffusers"):
        load_clip(tmp_path / "absent")


def test_what_is_no_clip_is_refused(dino_folder):
    with pytest.raises(ConfigError, match="Dinov2Model"):
        load_clip(dino_folder)


@pytest.mark.parametrize("name", ["broken.pt", "broken.pt2"])
def test_damaged_files_are_told(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 not a network")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_exported(tmp_path / name)


def test_missing_weights_and_preprocessing_are_told(dino_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    save_with_preprocessing(Dinov2Model.from_pretrained(dino_folder), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layernorm\.weight"):
        load_transformer(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json"):
        load_transformer(tmp_path)


class Unpooled(nn.Module):
    def forward(self, image_BCHW):
        return image_BCHW * 2


class NotFinite(nn.Module):
    def forward(self, image_BCHW):
        return image_BCHW.mean((2, 3)) / 0


@pytest.mark.parametrize(("network", "words"), [(Unpooled(), r"\(2, 3, 8, 8\)"), (NotFinite(), "not finite")])
def test_networks_without_pooled_features_are_refused(tmp_path, network, words):
    torch.jit.script(network).save(tmp_path / "net.pt")
    with pytest.raises(ConfigError, match=words):
        load_exported(tmp_path / "net.pt").features(noise(2, 3, 8, 8))


def test_filters_by_hand():
    """A ramp of slope s across: differences are s at whole size, 2 s at half, 4 s at quarter, none down."""
    slope = 1 / 32
    image_BCHW = (torch.arange(32.0) * slope - 0.5).expand(1, 3, 32, 32)
    features_D = filter_features(image_BCHW)[0]
    assert features_D.shape == (39,)
    left, right = -0.5 + 7.5 * slope, -0.5 + 23.5 * slope
    assert features_D[:4].tolist() == pytest.approx([left, right, left, right])
    assert features_D[4:12].tolist() == pytest.approx([0] * 8, abs=1e-7)
    by_scale = features_D[12:].view(3, 3, 3)
    assert by_scale[:, 0, 0].tolist() == pytest.approx([slope, 2 * slope, 4 * slope])
    assert by_scale[:, 1:].abs().max() == pytest.approx(0, abs=1e-7)
    assert torch.equal(load_filters().features(image_BCHW), features_D[None])


def test_filters_tell_the_colours_apart():
    red_BCHW = torch.zeros(1, 3, 16, 16)
    red_BCHW[:, 0] = 0.6
    blue_BCHW = red_BCHW.flip(1)
    assert filter_features(red_BCHW)[0, 0:12:4].tolist() == pytest.approx([0.2, 0.3, 0.15])
    assert filter_features(blue_BCHW)[0, 0:12:4].tolist() == pytest.approx([0.2, 0, -0.3])


def test_filters_refuse_small_images():
    with pytest.raises(DataError, match="16 px or more"):
        filter_features(noise(1, 3, 15, 20))
