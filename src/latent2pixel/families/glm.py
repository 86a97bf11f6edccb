"""GLM-Image: CogView4's successor, a DiT that is told a code of each image token, which a language model writes."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import GlmImageTransformer2DModel
from PIL import Image
from torch import Tensor
from torch.nn import functional

from latent2pixel.errors import SourceError
from latent2pixel.families.base import Encoded, split
from latent2pixel.families.cogview4 import CogView4
from latent2pixel.io.images import bytes_of
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid

CODE_PX = 32
"""Pixels per code and axis: the pipeline repeats each code on 2 x 2 tokens."""


class GlmImage(CogView4):
    """GLM-Image, with CogView4's schedule; the clock is one step behind it.

    What is to be seen is in the codes: the text encoder reads only what stands in quotes, the words to be drawn. At
    sampling the pipeline's ``vision_language_encoder`` writes codes for a prompt; those of a training image are what
    the same model's tokenizer of images makes of it, as the pipeline does with images to be edited. Without a prompt
    the pipeline drops the codes too.

    Source:
        diffusers 0.42, ``transformer_glm_image.py`` and ``pipeline_glm_image.py``.
    """

    name = "glm"
    transformer_class = GlmImageTransformer2DModel
    pipeline_names = ("GlmImagePipeline",)
    only_patch_px = CODE_PX // 2  # the pipeline writes a code for every 2 x 2 of these tokens
    reads_images = True
    one_prompt_a_call = True  # the codes of a prompt are others beside a second one
    input_projections = ("image_projector.proj",)

    def timestep(self, sigma_B: Tensor) -> Tensor:
        """Return what the transformer receives as its clock: the pipeline subtracts one step of 1000."""
        return super().timestep(sigma_B) - 1

    def sigma(self, timestep_B: Tensor) -> Tensor:
        """Return the noise level that a clock of the transformer tells."""
        return super().sigma(timestep_B + 1)

    def latents(self, pipe: Any, images_BCHW: Tensor) -> Tensor:
        """Return latents normalised by a mean and a spread for each channel."""
        config, mean_BZHW = pipe.vae.config, self.vae_mean(pipe, images_BCHW)
        mean_Z, spread_Z = (mean_BZHW.new_tensor(config[key]) for key in ("latents_mean", "latents_std"))
        return (mean_BZHW - mean_Z.view(-1, 1, 1)) / spread_Z.view(-1, 1, 1)

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return ByT5's states of what stands in quotes in each prompt, one state where nothing does."""
        items: list[Encoded] = []
        for prompt in prompts:  # in a batch the pipeline would pad them
            states_1LD, _ = pipe.encode_prompt([prompt], do_classifier_free_guidance=False)
            items += split(encoder_hidden_states=states_1LD)
        return items

    @torch.no_grad()
    def encode_images(self, pipe: Any, images_BCHW: Tensor) -> list[Encoded]:
        """Return the codes of each image, one a token.

        Raises:
            SourceError: If the pipeline's processor brings images of this size to another number of codes.
        """
        encoder, pictures = pipe.vision_language_encoder, [Image.fromarray(bytes_of(image)) for image in images_BCHW]
        inputs = pipe.processor.image_processor(images=pictures, return_tensors="pt").to(encoder.device)
        height, width = images_BCHW.shape[-2:]
        rows, columns = inputs["image_grid_thw"][0, 1:].tolist()
        if (rows * CODE_PX, columns * CODE_PX) != (height, width):
            areas_px = [pipe.processor.image_processor.size[edge] for edge in ("shortest_edge", "longest_edge")]
            smallest, largest = (round(area**0.5) for area in areas_px)
            raise SourceError(
                f"The pipeline's tokenizer of images does not make one code of {CODE_PX} x {CODE_PX} pixels here",
                found=f"{rows} x {columns} codes of an image of {height} x {width} px",
                expected=f"multiples of {CODE_PX} px from {smallest} to {largest}: it scales other images first",
                fix="Train on images of such a size.",
            )
        features = encoder.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        codes_BL = encoder.get_image_tokens(features.pooler_output).view(len(pictures), -1)
        on_tokens = [pipe._upsample_token_ids(codes_L, rows, columns) for codes_L in codes_BL]
        return split(prior_token_id=torch.cat(on_tokens))

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return states, codes and the image's size; an item without codes is the pipeline's without a prompt.

        Shorter states have zeros before them, which nothing masks, as the pipeline pads prompts of one call.
        """
        longest = max(len(item["encoder_hidden_states"]) for item in items)
        states = []
        for item in items:
            own_LD = item["encoder_hidden_states"]
            states.append(functional.pad(own_LD, (0, 0, longest - len(own_LD), 0)))
        rows, columns = grid
        no_codes_L = torch.zeros(rows * columns, dtype=torch.long)
        codes_BL = torch.stack([item.get("prior_token_id", no_codes_L) for item in items])
        drop_B1 = torch.tensor([["prior_token_id" not in item] for item in items])
        patch_px = model.config.get("pixel_patch_size", self.patch_px)
        size_px = [float(places * patch_px) for places in grid]
        size_B2 = torch.tensor([size_px] * len(items), dtype=model.dtype, device=model.device)
        return {
            "encoder_hidden_states": torch.stack(states).to(model.device, model.dtype),
            "prior_token_id": codes_BL.to(model.device),
            "prior_token_drop": drop_B1.repeat(1, rows * columns).to(model.device),
            "target_size": size_B2,
            "crop_coords": torch.zeros_like(size_B2),
        }


FAMILY = GlmImage()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="GlmImagePixelTransformer2DModel", module="latent2pixel")
