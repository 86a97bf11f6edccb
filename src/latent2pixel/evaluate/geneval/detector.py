"""The detector: Mask2Former of transformers, with GenEval's own way in and out.

Shape letters: C channels (3, sRGB), H height, W width, Q queries, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from latent2pixel.errors import CheckpointError, ConfigError
from latent2pixel.evaluate.geneval.clauses import MIN_SCORE, Detection
from latent2pixel.evaluate.geneval.names import CLASSES, class_of
from latent2pixel.evaluate.geneval.weights import find_network, load_network, short_name, weights_digest

DETECTOR = "facebook/mask2former-swin-small-coco-instance"
"""The network that GenEval uses, as its authors published it; GenEval's weights are OpenMMLab's training of it."""
SHORT_SIDE_PX, LONG_SIDE_PX = 800, 1333
"""The picture is scaled until one side meets its bound (OpenMMLab's test pipeline for COCO)."""
DIVISOR_PX = 32
"""Pads the scaled picture at its right and bottom: the backbone's largest stride."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of ImageNet's bytes, red first."""
MAX_INSTANCES = 100
"""Pairs of query and class that are looked at (OpenMMLab's ``max_per_image``); a query may come with two classes."""


class Detector(Protocol):
    """Anything that finds GenEval's objects in a picture."""

    name: str
    """In the keys of results."""

    def detect(self, image_CHW: Tensor) -> list[Detection]:
        """Return what is in a picture of sRGB bytes, whatever exceeds the score ``MIN_SCORE``, in any order."""

    def as_record(self) -> dict[str, Any]:
        """Return what decides its detections, as plain JSON values."""


class Mask2FormerDetector:
    """Finds objects with a Mask2Former for instances.

    Args:
        model: ``Mask2FormerForUniversalSegmentation``, on its device.
        name: For the keys of results.
        digest: Of its weights.
        short_side_px: Bound of the scaled picture's shorter side.
        long_side_px: Bound of its longer side.

    Raises:
        CheckpointError: Its labels are not GenEval's 80 classes.
        ConfigError: The bounds are no sizes.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        digest: str,
        short_side_px: int = SHORT_SIDE_PX,
        long_side_px: int = LONG_SIDE_PX,
    ) -> None:
        if not 0 < short_side_px <= long_side_px:
            raise ConfigError(
                "The detector cannot scale pictures to these sides",
                found=f"short_side_px = {short_side_px}, long_side_px = {long_side_px}",
                expected="0 < short_side_px <= long_side_px",
                fix=f"Leave both out for GenEval's {SHORT_SIDE_PX} and {LONG_SIDE_PX}.",
            )
        usual = (short_side_px, long_side_px) == (SHORT_SIDE_PX, LONG_SIDE_PX)
        self.name = name if usual else f"{name}-{short_side_px}x{long_side_px}px"
        self._model, self._digest = model, digest
        self._sides_px = short_side_px, long_side_px
        self._classes = _require_classes(model.config.id2label)

    def detect(self, image_CHW: Tensor) -> list[Detection]:
        """Return what is in a picture of sRGB bytes, whatever exceeds the score ``MIN_SCORE``, in any order."""
        size = image_CHW.shape[-2:]
        scaled = scaled_size((size[0], size[1]), short_side_px=self._sides_px[0], long_side_px=self._sides_px[1])
        pixels_BCHW = prepare(image_CHW.to(self._model.device), scaled)
        with torch.inference_mode():
            outputs = self._model(pixel_values=pixels_BCHW)
        return instances(
            outputs.class_queries_logits[0],
            outputs.masks_queries_logits[0],
            padded=(pixels_BCHW.shape[-2], pixels_BCHW.shape[-1]),
            scaled=scaled,
            size=(size[0], size[1]),
            classes=self._classes,
        )

    def as_record(self) -> dict[str, Any]:
        """Return what decides its detections, as plain JSON values."""
        sides = {"short_side_px": self._sides_px[0], "long_side_px": self._sides_px[1]}
        return {"name": self.name, "weights": self._digest, **sides}


def load_detector(
    source: str | Path = DETECTOR,
    *,
    device: str | torch.device = "cpu",
    short_side_px: int = SHORT_SIDE_PX,
    long_side_px: int = LONG_SIDE_PX,
) -> Mask2FormerDetector:
    """Load a Mask2Former from a folder, or one that was downloaded from the Hub.

    Raises:
        SourceError: It is not on this machine; the error has the command that downloads it.
        CheckpointError: It is not whole, or does not know GenEval's classes.
        ConfigError: The bounds of the sides are none, or scipy is missing.
    """
    folder = find_network(source)
    try:
        import scipy  # noqa: F401 (transformers builds the loss with every Mask2Former, and the loss needs it)
    except ImportError as error:
        raise ConfigError(
            "GenEval's detector needs a package that is not installed",
            found="no package scipy",
            expected="scipy, which transformers asks for when it builds a Mask2Former",
            fix="Install it with `pip install 'latent2pixel[eval]'`.",
        ) from error
    from transformers import Mask2FormerForUniversalSegmentation

    model = load_network(Mask2FormerForUniversalSegmentation, folder).to(device)
    digest = weights_digest(folder)
    name = short_name(source, digest, known=DETECTOR, name="hf-mask2former-swin-s")
    return Mask2FormerDetector(model, name=name, digest=digest, short_side_px=short_side_px, long_side_px=long_side_px)


def scaled_size(size: tuple[int, int], *, short_side_px: int, long_side_px: int) -> tuple[int, int]:
    """Return height and width of a picture scaled until one of its sides meets its bound, up or down.

    Source:
        ``rescale_size`` of OpenMMLab's mmcv 1.7, which rounds half up.
    """
    factor = min(long_side_px / max(size), short_side_px / min(size))
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def prepare(image_CHW: Tensor, scaled: tuple[int, int]) -> Tensor:
    """Return a picture as the network takes it.

    The repository's own preprocessing is left alone: it scales to multiples of 32 instead of padding, which changes
    the aspect.

    Args:
        image_CHW: sRGB bytes.
        scaled: Height and width to scale to.

    Returns:
        Float32, normalised, then padded with zeros, shape (1, 3, H, W).
    """
    # OpenCV's linear resize has no anti-aliasing and gives bytes again; rounding is at most half a byte off it.
    bytes_BCHW = interpolate(image_CHW[None].float(), size=scaled, mode="bilinear", align_corners=False).round()
    mean, std = (bytes_BCHW.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    bottom, right = (-side % DIVISOR_PX for side in scaled)
    return pad((bytes_BCHW - mean) / std, (0, right, 0, bottom))


def instances(
    class_logits_QK: Tensor,
    mask_logits_QHW: Tensor,
    *,
    padded: tuple[int, int],
    scaled: tuple[int, int],
    size: tuple[int, int],
    classes: Sequence[str],
) -> list[Detection]:
    """Return the objects that a Mask2Former's outputs describe.

    Args:
        class_logits_QK: One more column than classes: "no object" is the last.
        mask_logits_QHW: At any resolution.
        padded: Height and width of what the network saw.
        scaled: The same without the padding.
        size: Height and width of the picture.
        classes: Names by index.

    Returns:
        Objects whose score, class probability times mean probability within the mask, exceeds ``MIN_SCORE``.

    Source:
        ``MaskFormerFusionHead.instance_postprocess`` of OpenMMLab's mmdet 2. That of transformers scales the masks to
        384 x 384 px first, which loses small objects.
    """
    probabilities = class_logits_QK.softmax(-1)[:, :-1].flatten()
    shares, places = probabilities.topk(min(MAX_INSTANCES, probabilities.numel()))
    found = []
    for share, place in zip(shares.tolist(), places.tolist(), strict=True):
        # A mask's mean probability is below 1, so nothing is lost here but the time to scale a hundred masks.
        if share <= MIN_SCORE:
            break
        query, label = divmod(place, len(classes))
        logits_HW = _scale_logits(mask_logits_QHW[query], padded=padded, scaled=scaled, size=size)
        mask_HW = logits_HW > 0
        score = share * (logits_HW.sigmoid() * mask_HW).sum().item() / (mask_HW.sum().item() + 1e-6)
        if score > MIN_SCORE:
            rows, columns = mask_HW.any(1).nonzero().flatten(), mask_HW.any(0).nonzero().flatten()
            left, right, top, bottom = (int(each) for each in (columns[0], columns[-1], rows[0], rows[-1]))
            box = (float(left), float(top), float(right + 1), float(bottom + 1))
            found.append(Detection(class_name=classes[label], score=score, box=box, mask_HW=mask_HW.cpu().numpy()))
    return found


def _scale_logits(
    logits_HW: Tensor, *, padded: tuple[int, int], scaled: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Scale a mask's logits, not the mask, first to what the network saw, then without its padding to the picture."""
    seen = interpolate(logits_HW[None, None], size=padded, mode="bilinear", align_corners=False)
    cropped = seen[..., : scaled[0], : scaled[1]]
    return interpolate(cropped, size=size, mode="bilinear", align_corners=False)[0, 0]


def _require_classes(labels: dict[int, str]) -> list[str]:
    classes = [class_of(labels[index]) for index in range(len(labels))]
    missing = sorted(set(CLASSES) - set(classes))
    extra = sorted(set(classes) - set(CLASSES))
    if missing or extra or len(classes) != len(CLASSES):
        raise CheckpointError(
            "The detector does not know GenEval's classes",
            found=f"{len(classes)} labels; missing {missing[:3]}, not known {extra[:3]}",
            expected=f"the {len(CLASSES)} things of COCO",
            fix=f"Use a Mask2Former trained on COCO's instances, such as {DETECTOR}.",
        )
    return classes
