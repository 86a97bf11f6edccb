import json

import pytest
import torch
from tests.tiny import GRID, HEAD, PROMPTS, noise, tiny_lift, tiny_pipeline
from tests.train.run_tiny import run
from torch import nn
from torch.export import Dim, export, save
from transformers import CLIPTextConfig, CLIPTextModel, Dinov2Config, Dinov2Model, ResNetConfig, ResNetModel

from latent2pixel.convert import build_pixel_pipeline
from latent2pixel.errors import CheckpointError, ConfigError
from latent2pixel.families import family_of
from latent2pixel.flow import add_noise, velocity
from latent2pixel.model.predict import predict_velocity
from latent2pixel.train import TrainConfig
from latent2pixel.train.perceptual import (
    PREPROCESSING_NAME,
    Perceptual,
    load_dino,
    load_exported,
    perceptual_loss,
)
from latent2pixel.train.step import Draw, transfer_loss

PREPROCESSING = {
    "do_center_crop": True,
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 28, "width": 42},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
}


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    """A real DINOv2 of a few thousand weights: patches of 14, so 2 x 3 of them."""
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28))
    save_model(model, folder)
    return folder


def save_model(model, folder, preprocessing=PREPROCESSING):
    model.save_pretrained(folder)
    (folder / PREPROCESSING_NAME).write_text(json.dumps(preprocessing))


class EdgeDistance(nn.Module):
    """Has the shapes of LPIPS: features of a convolution, one number an image as (B, 1, 1, 1)."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, predicted, image):
        return (self.convolution(predicted) - self.convolution(image)).square().mean((1, 2, 3), keepdim=True)


class MeanDistance(EdgeDistance):
    def forward(self, predicted, image):
        return super().forward(predicted, image).mean()


SIZES = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}


def export_to(path, network, examples, sizes=SIZES):
    save(export(network, examples, dynamic_shapes=(sizes, sizes)), path)
    return path


@pytest.fixture
def examples():
    return noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)


def squared_distance(predicted_BCHW, image_BCHW):
    return (predicted_BCHW - image_BCHW).square().mean((1, 2, 3))


def test_dino_distance_is_zero_for_equal_images_and_grows(dino_folder):
    distance, image = load_dino(dino_folder), noise(2, 3, 32, 48).clamp(-1, 1)
    values = torch.stack([distance(image + scale * noise(2, 3, 32, 48, seed=1), image) for scale in (0, 0.1, 0.3, 1)])
    torch.testing.assert_close(values[0], torch.zeros(2), rtol=0, atol=1e-5)  # rounding of a cosine near 1
    assert (values.diff(dim=0) > 1e-4).all()
    assert values.max() <= 2


def test_dino_sees_what_its_preprocessing_asks_for(dino_folder):
    """By hand with the model itself: [0, 1], normalised by colour, at its own size, without the class token."""
    distance, model = load_dino(dino_folder), Dinov2Model.from_pretrained(dino_folder).eval()
    image = noise(1, 3, 28, 42).clamp(-1, 1)
    mean, std = (torch.tensor(PREPROCESSING[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    expected = model(pixel_values=((image + 1) / 2 - mean) / std).last_hidden_state[:, 1:]
    assert expected.shape == (1, 6, 16)
    torch.testing.assert_close(distance.features(image), expected)
    enlarged = image.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    # the whole image, resized: antialiasing blurs it a little, a crop would be another image
    assert distance(enlarged, image).item() < 0.5 * distance(image.roll(14, dims=3), image).item()


def test_dino_passes_a_gradient_to_the_prediction_alone(dino_folder):
    distance = load_dino(dino_folder)
    predicted, image = noise(1, 3, 32, 32).requires_grad_(), noise(1, 3, 32, 32, seed=1).requires_grad_()
    before = distance(predicted, image)
    before.sum().backward()
    assert image.grad is None
    assert not distance.model.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in distance.parameters())
    step = 0.1 * predicted.grad / predicted.grad.norm()
    with torch.no_grad():
        assert distance(predicted - step, image) < before < distance(predicted + step, image)


def test_exported_network_works_at_other_sizes_and_passes_a_gradient(tmp_path, examples):
    network = EdgeDistance().eval()
    distance = load_exported(export_to(tmp_path / "edges.pt2", network, examples))
    for shape in ((1, 3, 32, 32), (3, 3, 64, 48)):
        predicted, image = noise(*shape, seed=2).requires_grad_(), noise(*shape, seed=3)
        values = distance(predicted, image)
        torch.testing.assert_close(values, network(predicted, image).flatten())
        assert values.shape == shape[:1]
        values.sum().backward()
        assert predicted.grad.abs().sum() > 0
        torch.testing.assert_close(distance(image, image), torch.zeros(shape[0]))


def test_gate_leaves_out_noisy_images_and_keeps_the_scale():
    """By hand: images of 0.5, predicted 0.5 - sigma * error; the second has too much noise."""
    image, noisy, sigma = torch.full((3, 3, 4, 4), 0.5), noise(3, 3, 4, 4), torch.tensor([0.25, 0.6, 0.5])
    exact = (noisy - image) / sigma.view(-1, 1, 1, 1)
    seen = []

    def distance(predicted_BCHW, image_BCHW):
        seen.append(len(predicted_BCHW))
        return squared_distance(predicted_BCHW, image_BCHW)

    def loss(sign, max_sigma=0.5):
        return perceptual_loss(sign * exact + 2, noisy, image, sigma, distance=distance, max_sigma=max_sigma).item()

    assert loss(1) == pytest.approx((0.5**2 + 1.0**2) / 3, rel=1e-5)
    assert seen == [2]
    assert loss(-1) > 2 * loss(1)
    assert loss(1, max_sigma=0.1) == 0
    assert seen == [2, 2, 2]


@pytest.mark.parametrize("lifted", [False, True])
def test_loss_grows_by_the_weighted_gated_distance(lifted):
    pipe = build_pixel_pipeline(tiny_pipeline("z_image"), head=HEAD, lift=tiny_lift() if lifted else None)
    family, model = family_of(pipe.transformer), pipe.transformer
    conditioning = family.collate(pipe.transformer, family.encode(pipe, PROMPTS), GRID)
    images = noise(2, 3, 32, 32).clamp(-1, 1)
    drawn = Draw(
        noise_BCHW=noise(2, 3, 32, 32, seed=1), sigma_B=torch.tensor([0.4, 0.8]), dropped_B=torch.zeros(2, dtype=bool)
    )

    def loss(weight):
        perceptual = Perceptual(distance=squared_distance, weight=weight, max_sigma=0.5)
        return transfer_loss(model, images, drawn, conditioning, perceptual=perceptual)

    plain = transfer_loss(model, images, drawn, conditioning)
    noisy = add_noise(images, drawn.noise_BCHW, drawn.sigma_B)
    clean = noisy[:1] - 0.4 * predict_velocity(model, noisy, drawn.sigma_B, conditioning)[:1]
    expected = squared_distance(clean, images[:1]).sum() / 2
    assert loss(0.0) == plain
    assert expected > 1e-3
    torch.testing.assert_close(loss(3.0) - plain, 3 * expected, rtol=1e-4, atol=1e-6)


def test_lifted_model_is_judged_by_the_image_it_predicts_at_the_least_noise():
    """Below MIN_SIGMA its velocity is divided by MIN_SIGMA, not by sigma."""
    pipe = build_pixel_pipeline(tiny_pipeline("z_image"), head=HEAD, lift=tiny_lift())
    family, model = family_of(pipe.transformer), pipe.transformer
    conditioning = family.collate(pipe.transformer, family.encode(pipe, PROMPTS), GRID)
    images, sigma = noise(2, 3, 32, 32).clamp(-1, 1), torch.tensor([0.01, 0.01])
    drawn = Draw(noise_BCHW=noise(2, 3, 32, 32, seed=1), sigma_B=sigma, dropped_B=torch.zeros(2, dtype=bool))
    seen = []

    def distance(predicted_BCHW, image_BCHW):
        seen.append(predicted_BCHW)
        return squared_distance(predicted_BCHW, image_BCHW)

    transfer_loss(
        model, images, drawn, conditioning, perceptual=Perceptual(distance=distance, weight=1.0, max_sigma=0.5)
    )
    noisy = add_noise(images, drawn.noise_BCHW, sigma)
    torch.testing.assert_close(seen[0], noisy - 0.05 * predict_velocity(model, noisy, sigma, conditioning))


@pytest.mark.parametrize("kind", ["dino", "exported"])
def test_training_runs_with_a_perceptual_loss(tmp_path, dino_folder, examples, kind):
    path = dino_folder if kind == "dino" else export_to(tmp_path / "edges.pt2", EdgeDistance().eval(), examples)
    # every image passes, whatever noise the few steps draw; bfloat16 as on an accelerator
    settings = {"perceptual": kind, "perceptual_model": str(path), "perceptual_max_sigma": 1.0, "precision": "bf16"}
    _, plain = run(tmp_path / "plain", 3, precision="bf16")
    _, perceptual = run(tmp_path / "perceptual", 3, **settings)
    _, heavier = run(tmp_path / "heavier", 3, perceptual_weight=1.0, **settings)
    first = [report.losses[0][1] for report in (plain, perceptual, heavier)]
    assert first[0] < first[1] < first[2]
    assert first[2] - first[0] == pytest.approx(10 * (first[1] - first[0]), rel=1e-2)
    assert plain.losses[-1] != perceptual.losses[-1]


def test_exact_prediction_costs_nothing():
    """The true velocity leads to the true image: a sign changed anywhere in between would not."""
    image, noise_BCHW, sigma = noise(2, 3, 8, 8).clamp(-1, 1), noise(2, 3, 8, 8, seed=1), torch.tensor([0.1, 0.9])
    noisy = add_noise(image, noise_BCHW, sigma)
    loss = perceptual_loss(velocity(image, noise_BCHW), noisy, image, sigma, distance=squared_distance, max_sigma=1.0)
    assert loss < 1e-10  # rounding of float32


@pytest.mark.parametrize("load", [load_dino, load_exported])
def test_missing_network_is_refused(tmp_path, load):
    with pytest.raises(ConfigError, match="cannot be found"):
        load(tmp_path / "nothing")


def test_damaged_networks_are_refused(tmp_path, dino_folder):
    file = tmp_path / "network.pt2"
    file.write_bytes(b"text")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_exported(file)
    folder = tmp_path / "dino"
    save_model(Dinov2Model.from_pretrained(dino_folder), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_dino(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_dino(folder)


def test_network_without_all_weights_is_refused(tmp_path, dino_folder):
    model = Dinov2Model.from_pretrained(dino_folder)
    save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match="lacks weights"):
        load_dino(tmp_path)


def test_network_that_does_not_say_what_it_wants_is_refused(tmp_path, dino_folder):
    save_model(Dinov2Model.from_pretrained(dino_folder), tmp_path, PREPROCESSING | {"crop_size": {"shortest_edge": 28}})
    with pytest.raises(CheckpointError, match="does not say which images"):
        load_dino(tmp_path)
    (tmp_path / PREPROCESSING_NAME).unlink()
    with pytest.raises(CheckpointError, match="no preprocessor_config"):
        load_dino(tmp_path)


@pytest.mark.parametrize(
    "model",
    [
        lambda: ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])),
        lambda: CLIPTextModel(
            CLIPTextConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
        ),
    ],
    ids=["convolutional", "text"],
)
def test_network_without_patch_features_is_refused(tmp_path, model):
    save_model(model(), tmp_path)
    with pytest.raises(ConfigError, match="no features of patches"):
        load_dino(tmp_path)


def test_exported_networks_that_are_no_distance_are_refused(tmp_path, examples):
    mean = load_exported(export_to(tmp_path / "mean.pt2", MeanDistance().eval(), examples))
    with pytest.raises(ConfigError, match=r"found:    \(\) for 2 images"):
        mean(*examples)
    fixed = load_exported(export_to(tmp_path / "fixed.pt2", EdgeDistance().eval(), examples, {0: Dim.AUTO}))
    assert fixed(*examples).shape == (2,)
    with pytest.raises(ConfigError, match="no distance between the run's images"):
        fixed(noise(2, 3, 64, 64), noise(2, 3, 64, 64))
    same = load_exported(export_to(tmp_path / "same.pt2", EdgeDistance().eval(), examples[:1] * 2))
    with pytest.raises(ConfigError, match="does not depend on the first image"):
        same(examples[0].requires_grad_(), examples[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"perceptual_weight": -0.1}, "out of range"),
        ({"perceptual_weight": float("nan")}, "out of range"),
        ({"perceptual_max_sigma": 1.1}, "out of range"),
        ({"perceptual_max_sigma": 0.0}, "out of range"),
        ({"perceptual": "dino"}, "do not fit together"),
        ({"perceptual_model": "dino"}, "do not fit together"),
        ({"perceptual": "dino", "perceptual_model": "dino", "objective": "source"}, "needs an image"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)
