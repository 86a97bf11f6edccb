"""HiDream-I1: dual- then single-stream DiT with experts, tokens (row, column, channel) patchified inside the model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import HiDreamImageTransformer2DModel
from torch import Tensor

from latent2pixel.families.base import Encoded, MapFamily, split, stacked
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.positions import PositionLimit, require_positions
from latent2pixel.model.tokens import Grid


class HiDream(MapFamily):
    """HiDream-I1 Full, Dev and Fast.

    The stock pipeline changes every size to one of the area ``(default_sample_size * vae_scale_factor) ** 2``: set its
    ``default_sample_size`` for others. A cached prompt of the release takes 33 MB, as every block reads another layer
    of Llama and nothing masks padding. The transformer pads images that are not square to its ``max_resolution``,
    without a mask either; pixel models do the same.

    Source:
        diffusers 0.42, ``transformer_hidream_image.py`` and ``pipeline_hidream_image.py``.
    """

    name = "hidream"
    transformer_class = HiDreamImageTransformer2DModel
    pipeline_names = ("HiDreamImagePipeline",)
    sign = -1  # the pipeline negates the network's output
    clock = "1000 sigma"
    timestep_argument = "timesteps"
    input_projections = ("x_embedder.proj",)
    tail = ("final_layer",)
    tail_projection = "final_layer.linear"
    image_blocks = ("double_stream_blocks", "single_stream_blocks")
    token_order = "channel last"
    output_order = "channel last"

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with 3 * factor**2 channels in and out, and experts that gradients reach."""
        return {**super().pixel_config(source_config, factor), "force_inference_output": False}

    def images(self, pipe: Any, *, height: int, width: int, **call: Any) -> Any:
        """Call the pipeline with the image's own area: it scales every size to the area that it is built with."""
        usual = pipe.default_sample_size
        # A little more than the root, as the pipeline rounds down.
        pipe.default_sample_size = math.sqrt(height * width) / pipe.vae_scale_factor * (1 + 1e-6)
        try:
            return super().images(pipe, height=height, width=width, **call)
        finally:
            pipe.default_sample_size = usual

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return how many tokens images that are not square are padded to."""
        rows, columns = config["max_resolution"]
        return PositionLimit(oblong_tokens=rows * columns // config["patch_size"] ** 2)

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return T5's states, those of every layer of Llama, (layers, L, width), and CLIP's pooled ones.

        Always padded to the pipeline's length, as nothing masks them.
        """
        t5_BLD, _, llama_KBLD, _, pooled_BD, _ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return split(
            encoder_hidden_states_t5=t5_BLD,
            encoder_hidden_states_llama3=llama_KBLD.transpose(0, 1),
            pooled_embeds=pooled_BD,
        )

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return all states, Llama's layers before the batch; nothing depends on the grid.

        Raises:
            GeometryError: If an image that is not square has more tokens than the transformer pads it to.
        """
        require_positions(grid, self.position_limit(model.config))
        arguments = {key: stacked(items, key, model) for key in ("encoder_hidden_states_t5", "pooled_embeds")}
        llama_BKLD = stacked(items, "encoder_hidden_states_llama3", model)
        return {**arguments, "encoder_hidden_states_llama3": llama_BKLD.transpose(0, 1)}


class OneLayout(HiDreamImageTransformer2DModel):
    """The source with one layout of its output, where diffusers has another in training."""

    def unpatchify(self, x: Tensor, img_sizes: Any, is_training: bool) -> Any:
        """Return the map that the source returns outside training."""
        del is_training
        return super().unpatchify(x, img_sizes, False)


FAMILY = HiDream()
PIXEL_CLASS = pixel_transformer_class(
    FAMILY, name="HiDreamImagePixelTransformer2DModel", module="latent2pixel", source=OneLayout
)
