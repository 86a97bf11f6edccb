"""HunyuanImage 2.1: dual- then single-stream DiT, one latent cell of 32 x 32 pixels a token."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import AdaptiveProjectedMixGuidance, HunyuanImageTransformer2DModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from latent2pixel.errors import SourceError
from latent2pixel.families.base import Encoded, MapFamily
from latent2pixel.families.ragged import filled, ragged
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid

TEXTS = {"encoder_hidden_states": "encoder_attention_mask", "encoder_hidden_states_2": "encoder_attention_mask_2"}
"""States and their masks: of the whole prompt, and of the words in quotes that the image shall show."""


class HunyuanImage(MapFamily):
    """HunyuanImage 2.1.

    Guidance is no option of the stock pipeline's call but a part of the pipeline, ``guider``. It warns of sizes that
    are no multiples of two tokens, and makes them nevertheless.

    Source:
        diffusers 0.42, ``transformer_hunyuanimage.py`` and ``pipeline_hunyuanimage.py``.
    """

    name = "hunyuan_image"
    transformer_class = HunyuanImageTransformer2DModel
    pipeline_names = ("HunyuanImagePipeline",)
    patch_px = 32
    clock = "1000 sigma"
    clock_in_own_dtype = True
    latent_patch = 1
    input_projections = ("x_embedder.proj",)
    image_blocks = ("transformer_blocks", "single_transformer_blocks")

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with 3 * factor**2 channels in and out.

        Raises:
            SourceError: For the distilled model, which is told a second time besides its clock, and for other patches
                than 1 x 1.
        """
        found = {key: source_config[key] for key in ("use_meanflow", "guidance_embeds", "patch_size")}
        found["patch_size"] = tuple(found["patch_size"])
        expected = {"use_meanflow": False, "guidance_embeds": False, "patch_size": (self.latent_patch,) * 2}
        if found != expected:
            raise SourceError(
                "This HunyuanImage variant does not predict the velocity of a straight path, or has other patches",
                found=", ".join(f"{key} {value}" for key, value in found.items()),
                expected=", ".join(f"{key} {value}" for key, value in expected.items()),
                fix="Use HunyuanImage 2.1 as the source, not its distilled model or its refiner.",
            )
        return super().pixel_config(source_config, factor)

    def call_options(self, pipe: Any, *, guidance_scale: float, num_prompts: int) -> dict[str, Any]:
        """Return nothing: the pipeline's guiders are given this scale, 1 for no guidance."""
        del num_prompts
        if pipe.guider is None:
            pipe.register_modules(guider=AdaptiveProjectedMixGuidance())
        for guider in (pipe.guider, pipe.ocr_guider):
            if guider is not None:
                guider.guidance_scale = guidance_scale
        return {}

    def carry(self, model: Any, num_values: int) -> None:
        """Write the number of channels into the config, where this unpatchify reads it."""
        model.register_to_config(out_channels=num_values)

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return the states of Qwen2.5-VL and ByT5 for the tokens of each prompt, and their places in the padding.

        The pipeline pads every prompt to 1000 tokens, which would take 7 MB.
        """
        encoded = pipe.encode_prompt(list(prompts), batch_size=len(prompts))
        items: list[Encoded] = [{} for _ in prompts]
        for (states, mask), states_BLD, mask_BL in zip(TEXTS.items(), encoded[::2], encoded[1::2], strict=True):
            rows = ragged(mask_BL, **{states: states_BLD})
            for item, row, mask_L in zip(items, rows, mask_BL, strict=True):
                item |= {**row, mask: mask_L.bool().cpu()}
        return items

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return states and masks at the pipeline's lengths, zeros for padding; nothing depends on the grid."""
        arguments: dict[str, Any] = {}
        for states, mask in TEXTS.items():
            states_BLD, mask_BL = filled(items, states, mask, model)
            arguments |= {states: states_BLD, mask: mask_BL.long()}
        return arguments


class Checkpointed(HunyuanImageTransformer2DModel):
    """The source with gradient checkpointing: diffusers 0.42 names arguments that its own function does not take."""

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Callable[..., Any] | None = None) -> None:
        """Recompute blocks in the backward pass, with a given function or torch's own."""
        super().enable_gradient_checkpointing(gradient_checkpointing_func or _recomputed)


def _recomputed(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return checkpoint(module, *args, use_reentrant=False, **kwargs)


FAMILY = HunyuanImage()
PIXEL_CLASS = pixel_transformer_class(
    FAMILY, name="HunyuanImagePixelTransformer2DModel", module="latent2pixel", source=Checkpointed
)
