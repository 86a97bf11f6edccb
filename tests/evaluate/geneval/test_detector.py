"""The detector's way in and out, by hand and against transformers; networks that are not there or not whole."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny.judges import COCO_LABELS, save_mask2former

from latent2pixel.errors import CheckpointError, ConfigError, SourceError
from latent2pixel.evaluate.geneval.detector import DETECTOR, instances, load_detector, prepare, scaled_size
from latent2pixel.evaluate.geneval.names import CLASSES

SIDES = {"short_side_px": 64, "long_side_px": 107}
"""The protocol's 800 and 1333 take the tiny network a hundred times as long."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_mask2former(tmp_path_factory.mktemp("m2f") / "tiny", sees="mouse")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (800, 800)),
        ((1024, 1024), (800, 800)),
        ((480, 640), (800, 1067)),  # 1066.67, rounded half up
        ((640, 480), (1067, 800)),
        ((300, 900), (444, 1333)),  # the long side meets its bound first
    ],
)
def test_pictures_are_scaled_to_the_protocols_sides(size, expected):
    assert scaled_size(size, short_side_px=800, long_side_px=1333) == expected


def test_preparation_scales_normalises_and_pads():
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[0] = 255
    pixels = prepare(image, (40, 60))
    assert pixels.shape == (1, 3, 64, 64)
    # ImageNet's (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0 - 0.406) / 0.225 for values in [0, 1].
    expected = torch.tensor([2.2489, -2.0357, -1.8044])
    torch.testing.assert_close(pixels[0, :, 0, 0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels[0, :, 39, 59], expected, atol=1e-4, rtol=0)
    assert pixels[0, :, 40:].abs().max() == 0
    assert pixels[0, :, :, 60:].abs().max() == 0


def test_scaling_is_linear_between_pixel_centres_without_anti_aliasing():
    image = torch.tensor([0, 255, 0, 255] * 4, dtype=torch.uint8).view(1, 4, 4).expand(3, 4, 4)
    # To a quarter: each new centre lies between columns 1 and 2, (255 + 0) / 2 rounded to even; columns 0 and 3 have
    # no say, as they would with anti-aliasing.
    value = prepare(image, (1, 1))[0, 0, 0, 0]
    assert value == pytest.approx((128 - 123.675) / 58.395, abs=1e-5)


def logits_of(*probabilities):
    """Class logits of one query: a probability for each of two classes, the rest is "no object"."""
    return torch.tensor([*probabilities, 1 - sum(probabilities)]).log()


def found_in(class_logits, mask_logits, *, size=(4, 4)):
    return instances(
        torch.stack(class_logits), torch.stack(mask_logits), padded=(4, 4), scaled=(4, 4), size=size, classes=["a", "b"]
    )


def square(inside, outside=-9.0):
    logits = torch.full((4, 4), outside)
    logits[1:3, 0:3] = inside
    return logits


def test_score_is_class_probability_times_mean_within_the_mask_and_the_box_ends_behind_it():
    (found,) = found_in([logits_of(0.7, 0.2)], [square(2.0)])
    assert found.class_name == "a"
    assert found.score == pytest.approx(0.7 * 0.880797, abs=1e-5)  # sigmoid(2)
    assert found.box == (0.0, 1.0, 3.0, 3.0)
    assert found.mask_HW.sum() == 6


def test_no_object_takes_its_share_of_the_probability_and_is_never_found():
    assert found_in([logits_of(0.2, 0.1)], [square(9.0)]) == []


def test_a_query_may_come_with_two_classes():
    found = found_in([logits_of(0.5, 0.4)], [square(9.0)])
    assert [each.class_name for each in found] == ["a", "b"]


def test_scores_must_exceed_the_threshold_with_the_mask_counted():
    assert len(found_in([logits_of(0.4, 0.1)], [square(9.0)])) == 1
    assert found_in([logits_of(0.4, 0.1)], [square(0.01)]) == []  # 0.4 x 0.5


def test_an_empty_mask_is_nothing():
    assert found_in([logits_of(0.9, 0.1)], [torch.full((4, 4), -1.0)]) == []
    assert found_in([logits_of(0.9, 0.1)], [torch.zeros(4, 4)]) == []  # not above 0


def test_logits_are_scaled_not_masks():
    # Beside -1, a logit of 9 reaches beyond its own pixel: 9 - 10 t > 0 up to t = 0.9 of the way.
    logits = torch.full((4, 4), -1.0)
    logits[:, 0] = 9.0
    (found,) = found_in([logits_of(0.9, 0.05)], [logits], size=(4, 40))
    assert found.box == (0.0, 0.0, 14.0, 4.0)  # centres at 0.5 / 10 - 0.5 + t: 9 for 5 px, then 9 px with t < 0.9


def test_padding_is_cut_off_before_scaling_to_the_picture():
    logits = torch.full((4, 4), -9.0)
    logits[:2, :3] = 9.0
    (found,) = instances(
        logits_of(0.9, 0.05)[None], logits[None], padded=(4, 4), scaled=(2, 3), size=(20, 30), classes=["a", "b"]
    )
    assert found.box == (0.0, 0.0, 30.0, 20.0)


def test_instances_are_those_of_transformers_where_it_scales_nothing():
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

    generator = torch.Generator().manual_seed(0)
    class_logits = torch.randn(1, 12, 4, generator=generator) * 3
    class_logits[:, 6:, 3] += 9  # no object: transformers looks at as many pairs as there are queries, we at 100
    mask_logits = torch.randn(1, 12, 24, 24, generator=generator) * 4
    outputs = Mask2FormerForUniversalSegmentationOutput(
        class_queries_logits=class_logits, masks_queries_logits=mask_logits
    )
    (theirs,) = Mask2FormerImageProcessorPil().post_process_instance_segmentation(
        outputs, threshold=0.3, target_sizes=[(384, 384)], return_binary_maps=True
    )
    size = {"padded": (384, 384), "scaled": (384, 384), "size": (384, 384)}
    ours = instances(class_logits[0], mask_logits[0], **size, classes=["0", "1", "2"])
    assert len(ours) == len(theirs["segments_info"]) >= 3
    expected = {
        (str(segment["label_id"]), segment["score"]): mask
        for segment, mask in zip(theirs["segments_info"], theirs["segmentation"], strict=True)
    }
    for each in ours:
        (mask,) = [
            mask
            for (label, score), mask in expected.items()
            if label == each.class_name and score == pytest.approx(each.score, abs=2e-6)  # theirs are rounded to 1e-6
        ]
        assert (mask.bool().numpy() == each.mask_HW).all()


def test_a_loaded_network_finds_objects_in_pictures_of_any_aspect(folder):
    detector = load_detector(folder, **SIDES)
    image = torch.randint(0, 256, (3, 30, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = detector.detect(image)
    assert found
    assert {each.class_name for each in found} == {"computer mouse"}
    for each in found:
        left, top, right, bottom = each.box
        assert 0 <= left < right <= 50
        assert 0 <= top < bottom <= 30
        assert each.mask_HW.shape == (30, 50)
        assert 0.3 < each.score < 1


def test_the_name_says_which_network_and_which_sides(folder, tmp_path):
    digest = load_detector(folder).as_record()["weights"]
    assert load_detector(folder).name == f"tiny-{digest[:8]}"
    assert load_detector(folder, **SIDES).name == f"tiny-{digest[:8]}-64x107px"
    other = save_mask2former(tmp_path / "tiny", sees="remote")
    assert load_detector(other).name != load_detector(folder).name


def test_all_labels_of_the_published_network_become_genevals_classes():
    from latent2pixel.evaluate.geneval.names import class_of

    assert tuple(class_of(label) for label in COCO_LABELS.split("|")) == CLASSES


def test_a_network_of_other_classes_is_refused(tmp_path):
    folder = save_mask2former(tmp_path / "other", labels=COCO_LABELS.replace("toothbrush", "wall"))
    with pytest.raises(CheckpointError, match="GenEval's classes") as error:
        load_detector(folder)
    assert error.value.found == "80 labels; missing ['toothbrush'], not known ['wall']"


def test_weights_that_are_not_here_give_the_command_that_downloads_them(tmp_path):
    with pytest.raises(SourceError) as error:
        load_detector("nobody/no-such-network")
    assert error.value.fix == "Run `hf download nobody/no-such-network`, then the same again."
    with pytest.raises(SourceError) as error:
        load_detector(tmp_path / "gone")
    assert "hf download OWNER/NAME" in error.value.fix
    assert DETECTOR == "facebook/mask2former-swin-small-coco-instance"


def test_a_folder_without_weights_or_with_half_a_file_is_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match="not a whole network") as error:
        load_detector(tmp_path)
    assert "no *.safetensors" in error.value.found
    content = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not complete"):
        load_detector(tmp_path)


def test_missing_and_unknown_weights_are_refused_but_index_tables_are_not(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")

    def load_with(**changed):
        kept = {key: value for key, value in {**weights, **changed}.items() if value is not None}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return load_detector(tmp_path)

    load_with(**{"model.attention.relative_position_index": torch.zeros(4)})
    with pytest.raises(CheckpointError, match="do not fit"):
        load_with(**{"class_predictor.bias": None})
    with pytest.raises(CheckpointError, match="do not fit"):
        load_with(**{"class_predictor.extra": torch.zeros(4)})
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_queries": 6}))
    with pytest.raises(CheckpointError):
        load_with()


def test_sides_that_are_none_are_refused(folder):
    with pytest.raises(ConfigError, match="scale pictures"):
        load_detector(folder, short_side_px=200, long_side_px=100)
