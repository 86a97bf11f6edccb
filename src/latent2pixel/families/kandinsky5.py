"""Kandinsky 5 Image: DiT with cross attention to Qwen2.5-VL, cells channels last as one frame of a video.

Shape letters: B batch, L text tokens of a prompt, D width of the text encoder.
"""

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from diffusers import Kandinsky5Transformer3DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from latent2pixel.errors import SourceError
from latent2pixel.families.base import Encoded, MapFamily, stacked
from latent2pixel.families.ragged import ragged
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.pixel_transformer import IMAGE_CHANNELS
from latent2pixel.model.positions import PositionLimit, require_positions
from latent2pixel.model.tokens import Grid, to_grid
from latent2pixel.model.trunk import Call

MAX_POSITIONS = 128
"""Rows and columns of ``Kandinsky5RoPE3D``."""
PLAIN = {"visual_cond": False, "attention_type": "regular", "patch_size": (1, 2, 2)}
"""Config of text-to-image models; others condition on frames, attend sparsely, or join frames to tokens."""


class Kandinsky5(MapFamily):
    """Kandinsky 5.0 Image Lite, text to image.

    The stock pipeline changes every size to one of its seven ``resolutions``: append others to that list, as
    ``images`` does. No mask hides the padding of prompts, so pixel models run those of different length one by
    one; the stock pipeline pads them, which changes the shorter ones.

    Source:
        diffusers 0.42, ``transformer_kandinsky.py`` and ``pipeline_kandinsky_t2i.py``.
    """

    name = "kandinsky5"
    transformer_class = Kandinsky5Transformer3DModel
    pipeline_names = ("Kandinsky5T2IPipeline",)
    pipeline_patch_px = 16  # the pipeline divides image sizes by 8 px a cell, whatever the codec's
    clock = "1000 sigma"
    input_projections = ("visual_embeddings.in_layer",)
    tail = ("out_layer",)
    tail_projection = "out_layer.out_layer"
    image_blocks = ("visual_transformer_blocks",)
    token_order = "channel last"
    one_prompt_a_call = True  # the padding of shorter ones

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with 3 * factor**2 channels in and out.

        Raises:
            SourceError: For a model of videos, or one that edits images.
        """
        found = {key: source_config[key] for key in PLAIN}
        found["patch_size"] = tuple(found["patch_size"])
        if found != PLAIN:
            raise SourceError(
                "This Kandinsky 5 variant is no plain text-to-image model",
                found=found,
                expected=PLAIN,
                fix="Use Kandinsky 5.0 T2I Lite as the source.",
            )
        channels = IMAGE_CHANNELS * factor**2
        return {**source_config, "in_visual_dim": channels, "out_visual_dim": channels}

    def images(self, pipe: Any, *, height: int, width: int, **call: Any) -> Any:
        """Call the pipeline with this size among those that it knows; its result is called ``image``."""
        usual = pipe.resolutions
        pipe.resolutions = [*usual, (width, height)]
        try:
            return pipe(height=height, width=width, **call).image
        finally:
            pipe.resolutions = usual

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return the size of the table of rotary positions, which no config changes."""
        del config
        return PositionLimit(rows=MAX_POSITIONS, columns=MAX_POSITIONS)

    def width(self, model: Any) -> int:
        """Return ``model_dim``."""
        return model.config["model_dim"]

    def token_dim(self, source_config: Mapping[str, Any]) -> int:
        """Return the channels of a cell times the cells of a token."""
        return source_config["in_visual_dim"] * self.latent_patch**2

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Keep the positions of the first rows and columns."""
        axes = zip(call["visual_rope_pos"], (1, *grid), strict=True)
        return {**call, "visual_rope_pos": [places[:size] for places, size in axes]}

    def map_of(self, call: Call) -> Tensor:
        """Take the only frame of (B, 1, H, W, Z)."""
        return call[self.sample_argument][:, 0].movedim(-1, 1)

    def sample(self, map_BZHW: Tensor, call: Call) -> Tensor:
        """Return (B, 1, H, W, Z)."""
        return map_BZHW.movedim(1, -1).unsqueeze(1).contiguous()

    def carried(self, model: Any, output: Any, grid: Grid) -> Tensor:
        """Take the only frame of tokens."""
        return to_grid(output.flatten(1, 3), grid)

    def carry(self, model: Any, num_values: int) -> None:
        """Do nothing: the last layer itself unpatchifies, and is stripped or tapped."""

    def tap_tail(self, model: Any, token_dim: int) -> None:
        """Tap the last layer, and let it leave tokens as they are."""
        super().tap_tail(model, token_dim)
        model.out_layer.patch_size = (1, 1, 1)

    def latents(self, pipe: Any, images_BCHW: Tensor) -> Tensor:
        """Return the latents of images in [-1, 1]; this pipeline passes over the VAE's shift."""
        return self.vae_mean(pipe, images_BCHW) * pipe.vae.config.scaling_factor

    def token_px(self, pipe: Any) -> int:
        """Return the pixels per token and axis of a latent pipeline."""
        return pipe.vae_scale_factor_spatial * self.latent_patch

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return Qwen's states of each prompt at its own length, and CLIP's pooled ones.

        Qwen looks back only and padding comes last, so it changes nothing before it.
        """
        states_BLD, pooled_BD, offsets = pipe.encode_prompt(list(prompts))
        places_L = torch.arange(states_BLD.shape[1], device=states_BLD.device)
        items = ragged(places_L < offsets.diff()[:, None], encoder_hidden_states=states_BLD)
        return [
            {**item, "pooled_projections": pooled_D.clone().cpu()}
            for item, pooled_D in zip(items, pooled_BD, strict=True)
        ]

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return both states and the positions of text and image; lists of texts where their lengths differ.

        Raises:
            GeometryError: If the image has more rows or columns than there are positions.
        """
        require_positions(grid, self.position_limit(model.config))
        arguments = {
            "pooled_projections": stacked(items, "pooled_projections", model),
            "visual_rope_pos": [torch.arange(size, device=model.device) for size in (1, *grid)],
        }
        lengths = [len(item["encoder_hidden_states"]) for item in items]
        positions = [torch.arange(length, device=model.device) for length in lengths]
        if len(set(lengths)) == 1:
            states_BLD = stacked(items, "encoder_hidden_states", model)
            return {**arguments, "encoder_hidden_states": states_BLD, "text_rope_pos": positions[0]}
        states = [stacked([item], "encoder_hidden_states", model) for item in items]
        return {**arguments, "encoder_hidden_states": states, "text_rope_pos": positions}


class Ragged(Kandinsky5Transformer3DModel):
    """The source, which also takes lists of prompts of different length, and returns a tuple where one is due."""

    @wraps(Kandinsky5Transformer3DModel.forward)
    def forward(self, return_dict: bool = True, **call: Any) -> Any:
        """Run samples together, or one by one where their texts are lists of (1, L, D) and of positions."""
        if isinstance(call["encoder_hidden_states"], list):
            output = torch.cat([super(Ragged, self).forward(**one).sample for one in _one_by_one(call)])
        else:
            output = super().forward(**call).sample
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)


def _one_by_one(call: Call) -> list[dict[str, Any]]:
    """Return the arguments of each sample of a batch."""
    batched = {key: call[key].split(1) for key in ("hidden_states", "timestep", "pooled_projections")}
    batched |= {key: call[key] for key in ("encoder_hidden_states", "text_rope_pos")}
    rows = zip(*batched.values(), strict=True)
    return [{**call, **dict(zip(batched, row, strict=True))} for row in rows]


FAMILY = Kandinsky5()
PIXEL_CLASS = pixel_transformer_class(
    FAMILY, name="Kandinsky5PixelTransformer3DModel", module="latent2pixel", source=Ragged
)
