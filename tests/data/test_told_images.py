"""What a model is told of each image comes back with it, and is encoded once."""

import pytest
import torch

from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.data.told_images import ToldImages
from latent2pixel.io.images import save_image
from latent2pixel.io.records import write_records


class Encoder:
    """A deterministic encoder of images, which counts them."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images_BCHW):
        self.seen += len(images_BCHW)
        return [{"code": image_CHW.mean().view(1)} for image_CHW in images_BCHW]


@pytest.fixture
def images(tmp_path):
    for index, value in enumerate((-0.5, 0.5, -0.5)):
        save_image(tmp_path / "images" / f"{index}.png", torch.full((3, 8, 8), value))
    records = [{"file_name": f"{index}.png", "prompt": "red", "seed": index} for index in range(3)]
    write_records(tmp_path / "images" / "metadata.jsonl", records)
    return ImageFolderDataset(tmp_path / "images", 8)


def told(images, folder, encode, fingerprint="encoder 1"):
    return ToldImages(images, folder, encode, batch_size=1, fingerprint=fingerprint)


def test_each_item_holds_what_is_told_of_its_image(images, tmp_path):
    dataset = told(images, tmp_path / "cache", Encoder())
    assert len(dataset) == 3
    for index in range(3):
        item = dataset[index]
        assert torch.equal(item["image"], images[index]["image"])
        assert item["seed"] == index
        assert torch.equal(item["told"]["code"], item["image"].mean().view(1))


def test_images_are_encoded_once(images, tmp_path):
    encoder = Encoder()
    told(images, tmp_path / "cache", encoder)
    assert encoder.seen == 2  # two of the three are equal
    told(images, tmp_path / "cache", encoder)
    assert encoder.seen == 2
    told(images, tmp_path / "cache", encoder, fingerprint="encoder 2")
    assert encoder.seen == 4
