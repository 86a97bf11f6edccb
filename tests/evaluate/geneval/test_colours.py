"""The crop, its preparation, and the choice among ten colours."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny.judges import save_clip

from latent2pixel.errors import CheckpointError, SourceError
from latent2pixel.evaluate.geneval.clauses import Detection
from latent2pixel.evaluate.geneval.colours import CLASSIFIER, crop_of, load_colours, prepare_crop
from latent2pixel.evaluate.geneval.names import COLOURS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip") / "tiny")


def detection(box, mask) -> Detection:
    return Detection(class_name="bench", score=0.9, box=box, mask_HW=mask)


def noise_image(height, width):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def test_the_crop_is_the_object_on_grey_within_its_box():
    image = noise_image(6, 8)
    mask = np.zeros((6, 8), bool)
    mask[1, 2] = mask[3, 4] = True
    crop = np.array(crop_of(image, detection((2.0, 1.0, 5.0, 4.0), mask)))
    expected = np.full((3, 3, 3), 0x99, np.uint8)
    expected[0, 0] = image[:, 1, 2]
    expected[2, 2] = image[:, 3, 4]
    assert (crop == expected).all()


@pytest.mark.parametrize("size", [(50, 50), (50, 90), (90, 50), (20, 33), (224, 300)])
def test_preparation_is_that_of_transformers(size):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    crop = Image.fromarray(noise_image(*size).permute(1, 2, 0).numpy())
    ours = prepare_crop(crop, side_px=32)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)(crop, return_tensors="pt").pixel_values[0]
    # An odd rest is cut a pixel apart: OpenAI's rounds half to even, transformers' down.
    if (32 * max(size) // min(size) - 32) % 2 == 0:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ours.shape == (3, 32, 32)


def test_colours_are_the_nearest_to_three_sentences_each(folder):
    from transformers import AutoTokenizer, CLIPModel

    colours = load_colours(folder)
    image = noise_image(40, 40)
    whole = np.ones((40, 40), bool)
    boxes = [(0.0, 0.0, 20.0, 20.0), (10.0, 0.0, 40.0, 20.0), (0.0, 25.0, 40.0, 40.0), (5.0, 5.0, 9.0, 39.0)]
    found = [detection(box, whole) for box in boxes]
    # The same by CLIP's own forward pass, which normalises both sides.
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pixels = torch.stack([prepare_crop(crop_of(image, each), side_px=32) for each in found])
    means = []
    for colour in COLOURS:
        sentences = [f"a photo of a {colour} bench", f"a photo of a {colour}-colored bench"]
        sentences.append(f"a photo of a {colour} object")
        with torch.no_grad():
            outputs = model(**tokenizer(sentences, padding=True, return_tensors="pt"), pixel_values=pixels)
        mean = outputs.text_embeds.mean(0)
        means.append(mean / mean.norm())
    torch.testing.assert_close(colours._embed_colours("bench"), torch.stack(means))
    nearest = (outputs.image_embeds @ torch.stack(means).T).argmax(1)
    expected = [COLOURS[index] for index in nearest.tolist()]
    assert colours.colours(image, found, "bench") == expected
    assert colours.colours(image, found[1:2], "bench") == expected[1:2]


def test_other_things_have_other_sentences(folder):
    colours = load_colours(folder)
    bench, cat = colours._embed_colours("bench"), colours._embed_colours("cat")
    assert bench.shape == cat.shape == (10, 16)
    torch.testing.assert_close(bench.norm(dim=1), torch.ones(10))
    assert (bench - cat).abs().max() > 1e-3


def test_a_missing_classifier_gives_the_command_and_one_without_tokenizer_is_not_whole(folder, tmp_path):
    with pytest.raises(SourceError) as error:
        load_colours("nobody/no-such-clip")
    assert error.value.fix == "Run `hf download nobody/no-such-clip`, then the same again."
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(CheckpointError) as error:
        load_colours(tmp_path)
    assert "tokenizer" in error.value.found
    assert CLASSIFIER == "openai/clip-vit-large-patch14"
