"""Z-Image: single-stream DiT, tokens (row, column, channel) patchified inside the model, samples as lists.

Shape letters: B batch, C image channels, D trunk width, H and W image size in pixels, h and w the token grid,
L caption tokens, Z latent channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional

from latent2pixel.errors import SourceError
from latent2pixel.families.base import Family
from latent2pixel.model.pixel_transformer import IMAGE_CHANNELS, pixel_transformer_class
from latent2pixel.model.trunk import Grid, PassThrough

LATENT_PATCH = 2
PATCH_KEY = "2-1"
"""Spatial and temporal patch, the key under which the model files its input projection."""


class ZImage(Family):
    """Z-Image and Z-Image-Turbo.

    Source:
        diffusers 0.42, ``transformer_z_image.py`` and ``pipeline_z_image.py``.
    """

    name = "z_image"
    transformer_class = ZImageTransformer2DModel
    pipeline_name = "ZImagePipeline"
    latent_patch = LATENT_PATCH
    sign = -1  # the pipeline negates the network's output
    objective = "flow"
    sample_argument = "x"
    timestep_argument = "t"
    input_projections = (f"all_x_embedder.{PATCH_KEY}",)
    tail = ("all_final_layer",)
    image_blocks = ("layers",)

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with 3 * factor**2 input channels.

        Raises:
            SourceError: For an Omni model, or one with other patch sizes than 2 x 2 x 1.
        """
        patches = list(zip(source_config["all_patch_size"], source_config["all_f_patch_size"], strict=True))
        omni = source_config.get("siglip_feat_dim") is not None
        if patches != [(LATENT_PATCH, 1)] or omni:
            raise SourceError(
                "This Z-Image variant is no plain text-to-image model",
                found=f"patches {patches}, {'with' if omni else 'without'} reference images (siglip_feat_dim)",
                expected=f"patches [({LATENT_PATCH}, 1)] without reference images",
                fix="Use Z-Image or Z-Image-Turbo as the source.",
            )
        return {**source_config, "in_channels": IMAGE_CHANNELS * factor**2}

    def width(self, model: Any) -> int:
        """Return ``dim``."""
        return model.config["dim"]

    def strip_tail(self, model: Any) -> None:
        """Pass hidden states through; with D / 4 channels the model's own unpatchify carries them out unchanged."""
        model.all_final_layer = nn.ModuleDict({PATCH_KEY: PassThrough()})
        model.out_channels = self.width(model) // LATENT_PATCH**2

    def native(self, latents_BZHW: Tensor) -> list[Tensor]:
        """Return a list of (Z, 1, H, W)."""
        return list(latents_BZHW.unsqueeze(2).unbind())

    def tap_tail(self, model: Any, token_dim: int) -> None:
        """Give the final layer its source's size back; a hook keeps its output and hands its input on."""
        final = model.all_final_layer[PATCH_KEY]
        final.linear = nn.Linear(self.width(model), token_dim)
        final.register_forward_hook(_keep_output)
        model.out_channels = self.width(model) // LATENT_PATCH**2

    def tail_tokens(self, model: Any, grid: Grid) -> Tensor:
        """Take the image tokens, which come first: padding and the caption's follow."""
        rows, columns = grid
        kept_BLd = model.all_final_layer[PATCH_KEY].kept
        return kept_BLd[:, : rows * columns].unflatten(1, (rows, columns)).movedim(-1, 1)

    def token_dim(self, source_config: Mapping[str, Any]) -> int:
        """Return 4 * ``in_channels``."""
        return source_config["in_channels"] * LATENT_PATCH**2

    def tokens(self, sample: list[Tensor]) -> Tensor:
        """Patchify as the model does: (row, column, channel)."""
        cells_BZHW = torch.stack(list(sample)).squeeze(2)
        cells = cells_BZHW.unflatten(3, (-1, LATENT_PATCH)).unflatten(2, (-1, LATENT_PATCH))
        return cells.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)  # B Z h p w q -> B (p q Z) h w

    def untokens(self, tokens_Bdhw: Tensor) -> list[Tensor]:
        """Unpatchify as the model does."""
        cells = tokens_Bdhw.unflatten(1, (LATENT_PATCH, LATENT_PATCH, -1))
        return list(cells.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3).unsqueeze(2).unbind())

    def read(self, sample: list[Tensor], factor: int) -> Tensor:
        """Stack the list of (Z, 1, H / factor, W / factor) and unfold it to (B, C, H, W)."""
        return functional.pixel_shuffle(torch.stack(sample).squeeze(2), factor)

    def pack(self, noisy_BCHW: Tensor, factor: int) -> list[Tensor]:
        """Fold to a list of (Z, 1, H / factor, W / factor)."""
        return list(functional.pixel_unshuffle(noisy_BCHW, factor).unsqueeze(2).unbind())

    def feature(self, output: list[Tensor], grid: Grid) -> Tensor:
        """Undo the model's unpatchify, which laid the D channels of a token out as (row, column, D / 4)."""
        rows, columns = grid
        spread_BZHW = torch.stack(output).squeeze(2)
        cells = spread_BZHW.unflatten(2, (rows, LATENT_PATCH)).unflatten(4, (columns, LATENT_PATCH))
        return cells.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)  # B Z h p w q -> B (p q Z) h w

    def write(self, image_BCHW: Tensor, factor: int) -> list[Tensor]:
        """Fold to the list of (Z, 1, H / factor, W / factor) that the pipeline stacks."""
        return self.pack(image_BCHW, factor)

    def timestep(self, sigma_B: Tensor) -> Tensor:
        """Return ``1 - sigma``, computed as ``ZImagePipeline`` does it so that the rounding agrees to the last bit."""
        return (1000 - 1000 * sigma_B) / 1000

    def sigma(self, timestep_B: Tensor) -> Tensor:
        """Return ``1 - t``."""
        return 1 - timestep_B

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[dict[str, Tensor]]:
        """Return ``{"cap_feats": (L, width)}`` for each prompt, L its own length."""
        # encode_prompt writes the chat template into the list it is given, so it gets a copy.
        captions, _ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return [{"cap_feats": caption_LD.cpu()} for caption_LD in captions]

    def collate(
        self, items: Sequence[dict[str, Tensor]], *, device: torch.device | str, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Return ``{"cap_feats": [...]}``, unpadded: the model pads and masks ragged captions itself."""
        return {"cap_feats": [item["cap_feats"].to(device=device, dtype=dtype) for item in items]}


def _keep_output(final: Any, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook: keep the output, return the hidden states. It reaches the layer by argument, so copies work."""
    final.kept = output
    return arguments[0]


FAMILY = ZImage()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="ZImagePixelTransformer2DModel", module="latent2pixel")
