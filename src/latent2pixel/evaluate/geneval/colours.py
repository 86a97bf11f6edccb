"""The colour of what was found: CLIP chooses among ten, on the object alone before a grey ground.

Shape letters: B pictures, C channels (3, sRGB), H height, W width, N colours, D width of the embeddings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from latent2pixel.evaluate.geneval.clauses import Detection
from latent2pixel.evaluate.geneval.names import COLOURS
from latent2pixel.evaluate.geneval.weights import find_network, load_network, short_name, weights_digest

CLASSIFIER = "openai/clip-vit-large-patch14"
"""OpenAI's ViT-L/14, which GenEval's program loads through another library."""
GROUND = (0x99, 0x99, 0x99)
"""Colour around the object, "#999" in the program."""
TEMPLATES = ("a photo of a {colour} {thing}", "a photo of a {colour}-colored {thing}", "a photo of a {colour} object")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of CLIP's training pictures, values in [0, 1], red first (OpenAI's preprocessing)."""


class ColourClassifier(Protocol):
    """Anything that names the colours of objects."""

    name: str
    """In the keys of results, where it is not the usual one."""

    def colours(self, image_CHW: Tensor, detections: Sequence[Detection], class_name: str) -> list[str]:
        """Return the colour of each detection, all of one class, in a picture of sRGB bytes."""

    def as_record(self) -> dict[str, Any]:
        """Return what decides its answers, as plain JSON values."""


class CLIPColours:
    """Chooses the colour whose sentences are nearest to the picture of the object.

    Args:
        model: ``CLIPModel``, on its device.
        tokenizer: Of that model.
        name: For the keys of results.
        digest: Of its weights.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, digest: str) -> None:
        self.name = name
        self._model, self._tokenizer, self._digest = model, tokenizer, digest
        self._sentences: dict[str, Tensor] = {}

    def colours(self, image_CHW: Tensor, detections: Sequence[Detection], class_name: str) -> list[str]:
        """Return the colour of each detection, all of one class, in a picture of sRGB bytes."""
        side_px = self._model.config.vision_config.image_size
        crops = [prepare_crop(crop_of(image_CHW, detection), side_px=side_px) for detection in detections]
        with torch.inference_mode():
            if class_name not in self._sentences:
                self._sentences[class_name] = self._embed_colours(class_name)
            seen = self._model.vision_model(pixel_values=torch.stack(crops).to(self._model.device))
            pictures_BD = normalize(self._model.visual_projection(seen.pooler_output), dim=-1)
            nearest_B = (pictures_BD @ self._sentences[class_name].T).argmax(1)
        return [COLOURS[index] for index in nearest_B.tolist()]

    def as_record(self) -> dict[str, Any]:
        """Return what decides its answers, as plain JSON values."""
        return {"name": self.name, "weights": self._digest}

    def _embed_colours(self, class_name: str) -> Tensor:
        """Return one embedding a colour, shape (N, D): the mean of its sentences', of length 1 as each of them was."""
        means = []
        for colour in COLOURS:
            sentences = [template.format(colour=colour, thing=class_name) for template in TEMPLATES]
            tokens = self._tokenizer(sentences, padding=True, return_tensors="pt").to(self._model.device)
            read = self._model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            means.append(normalize(self._model.text_projection(read.pooler_output), dim=-1).mean(0))
        return normalize(torch.stack(means), dim=-1)


def load_colours(source: str | Path = CLASSIFIER, *, device: str | torch.device = "cpu") -> CLIPColours:
    """Load a CLIP from a folder, or one that was downloaded from the Hub.

    Raises:
        SourceError: It is not on this machine; the error has the command that downloads it.
        CheckpointError: It is not whole.
    """
    folder = find_network(source, tokenizer=True)
    from transformers import AutoTokenizer, CLIPModel

    model = load_network(CLIPModel, folder).to(device)
    digest = weights_digest(folder)
    name = short_name(source, digest, known=CLASSIFIER, name="hf-clip-vit-l-14")
    return CLIPColours(model, AutoTokenizer.from_pretrained(folder, local_files_only=True), name=name, digest=digest)


def crop_of(image_CHW: Tensor, detection: Detection) -> Image.Image:
    """Return an object before the grey ground, cropped to its box; the picture is sRGB bytes."""
    picture_HWC = image_CHW.permute(1, 2, 0).cpu().numpy()
    alone_HWC = np.where(detection.mask_HW[..., None], picture_HWC, np.array(GROUND, dtype=np.uint8))
    left, top, right, bottom = (round(side) for side in detection.box)
    return Image.fromarray(alone_HWC[top:bottom, left:right])


def prepare_crop(crop: Image.Image, *, side_px: int) -> Tensor:
    """Return a crop as CLIP takes it: its shorter side scaled to the network's, the middle cut out, normalised.

    Returns:
        Float32, shape (3, side_px, side_px).

    Source:
        OpenAI's CLIP, ``_transform``: bicubic with Pillow's anti-aliasing, the longer side rounded down.
    """
    width, height = (side_px * side // min(crop.size) for side in crop.size)
    scaled = crop.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side_px) / 2), round((height - side_px) / 2)
    square = np.array(scaled.crop((left, top, left + side_px, top + side_px)))
    bytes_CHW = torch.from_numpy(square).permute(2, 0, 1).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (bytes_CHW / 255 - mean) / std
