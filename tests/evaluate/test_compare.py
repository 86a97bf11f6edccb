"""Two folders of images: pairing, what is counted, and one record that nothing on disk can change silently."""

import json
import random

import pytest
import torch
from tests.evaluate.tiny_clip import save_tiny_clip
from torch import nn
from torch.nn.functional import avg_pool2d

from latent2pixel.errors import ConfigError, DataError
from latent2pixel.evaluate.clip_score import load_clip
from latent2pixel.evaluate.compare import ComparisonSettings, compare_folders
from latent2pixel.evaluate.diversity import feature_diversity, image_diversity
from latent2pixel.evaluate.features import FeatureNetwork, load_filters
from latent2pixel.evaluate.filter_features import filter_features
from latent2pixel.evaluate.pairs import list_images, pair_folders
from latent2pixel.evaluate.patch_grid import patch_grid_ratio
from latent2pixel.evaluate.spectrum import band_power
from latent2pixel.io.images import load_image, save_image
from latent2pixel.io.records import write_records
from latent2pixel.train.perceptual import load_exported

PROMPTS = ["a red circle", "two squares", "a blue square"]
SEEDS = [0, 1]
SETTINGS = ComparisonSettings(patch_size=8, num_crops=2, batch_size=4)


def picture(prompt, seed, size_px=(32, 40)):
    generator = torch.Generator().manual_seed(100 * PROMPTS.index(prompt) + seed)
    return (0.4 * torch.randn(3, *size_px, generator=generator)).clamp(-1, 1)


def blurred(image_CHW):
    return avg_pool2d(image_CHW, 3, stride=1, padding=1)


def write_folder(folder, change, *, names=None, order=None, prompts=PROMPTS):
    """Write an image for each prompt and seed, under any names and in any order of the lines."""
    keys = [(prompt, seed) for prompt in prompts for seed in SEEDS]
    names = names or [f"{index}.png" for index in range(len(keys))]
    records = []
    for (prompt, seed), name in zip(keys, names, strict=True):
        save_image(folder / name, change(picture(prompt, seed)))
        records.append({"file_name": name, "id": name, "prompt": prompt, "seed": seed})
    write_records(folder / "metadata.jsonl", [records[index] for index in order or range(len(records))])
    return folder


@pytest.fixture
def folders(tmp_path):
    return write_folder(tmp_path / "source", lambda image: image), write_folder(tmp_path / "pixel", blurred)


def compare(source, pixel, **settings):
    record = compare_folders(source, pixel, settings=SETTINGS, **settings)
    json.dumps(record, allow_nan=False)
    return record


def numbers_of(record):
    return {key: value for key, value in record.items() if key not in ("source", "pixel")}


def test_numbers_are_those_of_the_parts(folders):
    source, pixel = folders
    record = compare(source, pixel)
    assert (record["num_pairs"], record["num_prompts"], record["problems"]) == (6, 3, [])
    assert record["num_listed"] == {"source": 6, "pixel": 6}
    images = [torch.stack([load_image(folder / f"{index}.png") for index in range(6)]) for folder in (source, pixel)]
    powers = [band_power(images_BCHW).mean(0).tolist() for images_BCHW in images]
    for index, band in enumerate(record["results"]["spectrum"].values()):
        assert band["source"]["value"] == pytest.approx(powers[0][index])
        assert band["pixel_over_source"]["value"] == pytest.approx(powers[1][index] / powers[0][index])
    grid = record["results"]["patch_grid"]
    expected = sum(patch_grid_ratio(image[None], 8) for image in images[1]) / 6
    assert grid["pixel"]["value"] == pytest.approx(expected)
    diversity = record["results"]["diversity/filters-v1"]
    features = filter_features(images[0])
    expected = sum((features[one] - features[one + 1]).norm().item() for one in (0, 2, 4)) / 3
    assert diversity["source"]["value"] == pytest.approx(expected, rel=1e-5)
    assert diversity["source"]["num_prompts"] == 3


def test_a_blurred_copy_lacks_high_frequencies_and_nothing_else(folders):
    results = compare(*folders)["results"]
    ratios = [band["pixel_over_source"]["value"] for band in results["spectrum"].values()]
    assert ratios[3] < 0.2 < ratios[1]
    assert results["spectrum"]["1/4-1/2"]["pixel_over_source"]["high"] < 0.3
    assert results["fid/filters-v1"]["distance"] > 0.1
    assert results["fid-patch/filters-v1"]["num_source"] == 12
    assert (
        results["fid-patch/filters-v1"] | {"num_crops": 2, "crop_px": 16, "seed": 0} == results["fid-patch/filters-v1"]
    )
    assert results["kid/filters-v1"]["distance"] > 0
    assert results["mmd-patch/filters-v1"]["distance"] > 0


def test_equal_folders_are_equal(folders):
    source, _ = folders
    results = compare(source, source)["results"]
    for name in ("fid/filters-v1", "fid-patch/filters-v1"):
        assert results[name]["distance"] == pytest.approx(0, abs=1e-6)
    for ratio in (*results["spectrum"].values(), results["patch_grid"], results["diversity/filters-v1"]):
        assert [ratio["pixel_over_source"][key] for key in ("value", "low", "high")] == pytest.approx([1, 1, 1])


def test_names_and_order_on_disk_change_nothing(folders, tmp_path):
    """The same images under shuffled names, in sub-folders, with their lines shuffled: the same record."""
    source, pixel = folders
    names = [f"shard-{index % 2}/{index}.png" for index in range(6)]
    random.Random(0).shuffle(names)
    shuffled = write_folder(tmp_path / "shuffled", blurred, names=names, order=[3, 0, 5, 1, 4, 2])
    assert numbers_of(compare(source, shuffled)) == numbers_of(compare(source, pixel))


def test_sub_folders_with_their_own_records_are_read(folders, tmp_path):
    source, pixel = folders
    write_folder(tmp_path / "parts" / "shard-0", blurred, prompts=PROMPTS[:2])
    write_folder(tmp_path / "parts" / "shard-1", blurred, names=["x.png", "y.png"], prompts=PROMPTS[2:])
    assert numbers_of(compare(source, tmp_path / "parts")) == numbers_of(compare(source, pixel))


def test_everything_that_is_wrong_is_named_and_counted(folders):
    """Missing, cut off, broken in the middle, of another size, listed twice, without a seed."""
    source, pixel = folders
    (source / "0.png").unlink()
    whole = (pixel / "1.png").read_bytes()
    (pixel / "1.png").write_bytes(whole[: len(whole) // 2])
    middle = bytearray((source / "2.png").read_bytes())
    middle[len(middle) // 2] ^= 0xFF
    (source / "2.png").write_bytes(bytes(middle))
    save_image(pixel / "3.png", picture(PROMPTS[1], 1, (40, 40)))
    lines = [json.loads(line) for line in (pixel / "metadata.jsonl").read_text().splitlines()]
    write_records(pixel / "metadata.jsonl", [*lines, {"file_name": "9.png", "prompt": "without a seed"}])
    record = compare(source, pixel)
    assert record["num_pairs"] == 2
    assert record["num_problems"] == {
        "source": {"broken": 1, "missing": 1, "no partner": 1, "other size": 1},
        "pixel": {"broken": 1, "no partner": 2, "no record": 1, "other size": 1},
    }
    told = {(problem["side"], problem["file"]): problem["kind"] for problem in record["problems"]}
    assert told[("source", "0.png")] == "missing"
    assert told[("pixel", "1.png")] == told[("source", "2.png")] == "broken"
    assert told[("source", "3.png")] == told[("pixel", "3.png")] == "other size"
    assert told[("pixel", "0.png")] == told[("source", "1.png")] == told[("pixel", "2.png")] == "no partner"
    assert told[("pixel", "9.png")] == "no record"
    assert 2 * record["num_pairs"] + len(record["problems"]) == sum(record["num_listed"].values())


def test_two_images_of_one_key_are_both_left_out(folders):
    source, pixel = folders
    lines = [json.loads(line) for line in (pixel / "metadata.jsonl").read_text().splitlines()]
    save_image(pixel / "again.png", picture(PROMPTS[0], 0))
    for order in (1, -1):
        write_records(pixel / "metadata.jsonl", [*lines, lines[0] | {"file_name": "again.png"}][::order])
        pairs, problems, _ = pair_folders(source, pixel)
        assert len(pairs) == 5
        assert [(problem.side, problem.file, problem.kind) for problem in problems] == [
            ("pixel", "0.png", "listed twice"),
            ("pixel", "again.png", "listed twice"),
            ("source", "0.png", "no partner"),
        ]


def test_one_broken_image_moves_no_crops_of_the_others(folders):
    """Crops follow prompt and seed: without a pair, the others' features are what they were."""
    source, pixel = folders
    seen = []

    def features(image_BCHW):
        if image_BCHW.shape[-1] == 16:
            seen.append(image_BCHW[:, :, 0, 0].sum().item())
        return filter_features(image_BCHW)

    network = FeatureNetwork(name="watched", features=features)
    compare(source, pixel, network=network)
    first, seen[:] = list(seen), []
    (pixel / "2.png").unlink()
    compare(source, pixel, network=network)
    assert len(first) - 2 == len(seen)
    assert set(seen) < set(first)


def test_batches_do_not_change_the_numbers(folders):
    one, four = (
        compare_folders(*folders, settings=ComparisonSettings(num_crops=2, batch_size=size))["results"]
        for size in (1, 4)
    )
    for name in ("fid/filters-v1", "kid/filters-v1", "fid-patch/filters-v1", "mmd-patch/filters-v1"):
        assert one[name]["distance"] == pytest.approx(four[name]["distance"], rel=1e-4)


def test_what_was_not_measured_is_said(folders):
    record = compare_folders(*folders)
    assert set(record["left_out"]) == {"is/filters-v1", "clip", "patch_grid", "diversity/images"}
    assert record["settings"]["crop_px"] == 16  # half of the shortest side, far below 299
    assert record["network"]["name"] == "filters-v1"


def test_flat_images_have_no_grid_and_are_named(folders):
    source, pixel = folders
    save_image(pixel / "4.png", torch.zeros(3, 32, 40))
    grid = compare(source, pixel)["results"]["patch_grid"]
    assert grid["without_structure"] == [{"prompt": PROMPTS[2], "seed": 0}]
    assert grid["source"]["num_images"] == 5


def test_given_networks_are_used_and_named(folders, tmp_path):
    """Classes from the mean colour, a distance by the mean square, a tiny CLIP."""
    source, pixel = folders
    filters = load_filters()
    network = FeatureNetwork(
        name="mine", features=filters.features, logits=lambda image_BCHW: 30 * image_BCHW.mean((2, 3))
    )

    clip = load_clip(save_tiny_clip(tmp_path / "tiny-clip"))
    record = compare(source, pixel, network=network, clip=clip, distance=lambda a, b: (a - b).square().mean((1, 2, 3)))
    results = record["results"]
    assert 1 < results["is/mine"]["source"]["score"] < 3
    images = [load_image(source / f"{index}.png") for index in range(6)]
    expected = sum((images[one] - images[one + 1]).square().mean().item() for one in (0, 2, 4)) / 3
    scores = clip.scores(torch.stack(images), [prompt for prompt in PROMPTS for _ in SEEDS])
    assert 0 < scores.mean() == pytest.approx(results["clip/tiny-clip"]["source"]["value"], abs=1e-3)
    assert results["clip/tiny-clip"]["num_truncated"] == 0
    assert results["diversity/images"]["source"]["value"] == pytest.approx(expected, rel=1e-5)
    assert record["left_out"] == {}


def test_every_pair_has_its_distance(folders):
    """That of the features, or the given one; the record's mean is theirs."""
    source, pixel = folders
    images = [torch.stack([load_image(folder / f"{index}.png") for index in range(6)]) for folder in (source, pixel)]
    features = [filter_features(images_BCHW) for images_BCHW in images]
    record = compare(source, pixel)
    assert [(pair["prompt"], pair["seed"]) for pair in record["pairs"]] == sorted(
        (p, s) for p in PROMPTS for s in SEEDS
    )
    expected = (features[0] - features[1]).norm(dim=1).tolist()
    found = {(pair["prompt"], pair["seed"]): pair["distance"] for pair in record["pairs"]}
    assert [found[prompt, seed] for prompt in PROMPTS for seed in SEEDS] == pytest.approx(expected, rel=1e-5)
    assert record["results"]["pair-distance/filters-v1"]["value"] == pytest.approx(sum(expected) / 6)
    # Not symmetric on purpose: the pixel model's picture comes first, as a training run gives its predictions.
    record = compare(source, pixel, distance=lambda a, b: (2 * a - b).mean((1, 2, 3)))
    expected = (2 * images[1] - images[0]).mean((1, 2, 3)).tolist()
    found = {(pair["prompt"], pair["seed"]): pair["distance"] for pair in record["pairs"]}
    assert [found[prompt, seed] for prompt in PROMPTS for seed in SEEDS] == pytest.approx(expected, abs=1e-6)
    assert "pair-distance/images" in record["results"]


def test_without_crops_their_distances_are_left_out_with_the_reason(folders):
    record = compare_folders(*folders, settings=ComparisonSettings(num_crops=0))
    assert not [name for name in record["results"] if "-patch/" in name]
    assert {name for name in record["left_out"] if "-patch/" in name} == {
        "fid-patch/filters-v1",
        "mmd-patch/filters-v1",
    }
    whole = compare_folders(*folders, settings=ComparisonSettings(num_crops=2))["results"]
    assert record["results"]["fid/filters-v1"] == whole["fid/filters-v1"]


def test_one_folder_is_listed_with_what_is_wrong(folders):
    _, pixel = folders
    (pixel / "1.png").unlink()
    (pixel / "2.png").write_bytes(b"no picture")
    listed = list_images(pixel, "model")
    assert listed.num_listed == 6
    assert list(listed.paths) == sorted(listed.paths)
    assert listed.paths[PROMPTS[0], 0] == pixel / "0.png"
    assert [(one.side, one.file, one.kind) for one in listed.problems] == [
        ("model", "1.png", "missing"),
        ("model", "2.png", "broken"),
    ]


def test_diversity_by_hand():
    """Corners of a 3-4-5 triangle; a distance that is not symmetric counts in both directions."""
    assert feature_diversity(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])) == pytest.approx(4)
    images_SCHW = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert image_diversity(images_SCHW, lambda a, b: (2 * b - a).mean((1, 2, 3))) == pytest.approx((2 - 1) / 2)
    with pytest.raises(DataError, match="two or more"):
        feature_diversity(torch.zeros(1, 2))


class EdgeDistance(nn.Module):
    """Has the shapes of LPIPS: one number an image, as (B, 1, 1, 1)."""

    def forward(self, one_BCHW, other_BCHW):
        return (one_BCHW.diff(dim=-1) - other_BCHW.diff(dim=-1)).square().mean((1, 2, 3), keepdim=True)


def test_diversity_takes_the_exported_network_of_a_training_run(tmp_path):
    images_SCHW = torch.stack([picture(PROMPTS[0], seed) for seed in range(3)])
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    examples = (images_SCHW[:2], images_SCHW[1:])
    exported = torch.export.export(EdgeDistance(), examples, dynamic_shapes=(sizes, sizes))
    torch.export.save(exported, tmp_path / "lpips.pt2")
    steps = images_SCHW.diff(dim=-1)
    expected = sum((steps[one] - steps[other]).square().mean().item() for one, other in ((0, 1), (0, 2), (1, 2))) / 3
    assert image_diversity(images_SCHW, load_exported(tmp_path / "lpips.pt2")) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"patch_size": 16}, ConfigError, "40 x 32 px and patch_size = 16"),
        ({"crop_px": 33}, ConfigError, "crop_px = 33"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_refused(folders, settings, error, words):
    with pytest.raises(error, match=words):
        compare_folders(*folders, settings=ComparisonSettings(**settings))


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="num_crops = -1"):
        ComparisonSettings(num_crops=-1)


def test_nothing_to_compare_is_told_with_its_first_reason(folders, tmp_path):
    source, pixel = folders
    with pytest.raises(DataError, match=r"no folder .*absent"):
        compare_folders(source, tmp_path / "absent")
    for path in pixel.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"0 pairs from 6 and 6 images; the first problem: .*missing"):
        compare_folders(source, pixel)
