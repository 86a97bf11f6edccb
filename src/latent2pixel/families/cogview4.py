"""CogView4: DiT with joint attention to GLM-4 and SDXL's size conditions, told the time before the noise shift."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import CogView4Transformer2DModel
from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift

from latent2pixel.errors import SourceError
from latent2pixel.families.base import Encoded, MapFamily, split
from latent2pixel.model.pixel_class import pixel_transformer_class
from latent2pixel.model.tokens import Grid

TEXT_MULTIPLE = 16
"""The pipeline pads prompts to a multiple of so many tokens, on the left."""
MAX_TEXT_TOKENS = 1024
"""The pipeline's default."""
SCHEDULE = {
    "use_dynamic_shifting": True,
    "time_shift_type": "linear",
    "base_image_seq_len": 256,
    "base_shift": 0.25,
    "max_shift": 0.75,
}
"""The released scheduler's; the numbers are defaults of the pipeline's ``calculate_shift`` too."""


class CogView4(MapFamily):
    """CogView4-6B.

    The pipeline hands times and noise levels to its scheduler, which shifts the latter only: the transformer is told
    the time before the shift, and the shift grows with the image. Nothing masks the padding of prompts, in diffusers
    0.42 not even the transformer's own mask, which is added where it should forbid.

    Source:
        diffusers 0.42, ``transformer_cogview4.py`` and ``pipeline_cogview4.py``; schedule of
        ``scripts/convert_cogview4_to_diffusers_megatron.py``.
    """

    name = "cogview4"
    transformer_class = CogView4Transformer2DModel
    pipeline_names = ("CogView4Pipeline",)
    clock = "1000 sigma"
    input_projections = ("patch_embed.proj",)

    def clock_shift(self, num_tokens: float) -> float:
        """Return the released schedule's shift."""
        return calculate_shift(num_tokens)

    def scheduler(self, pipe: Any) -> Any:
        """Return the pipeline's scheduler.

        Raises:
            SourceError: If it is not the released one, whose shift the clock needs.
        """
        found = {key: pipe.scheduler.config.get(key) for key in SCHEDULE}
        if found != SCHEDULE:
            raise SourceError(
                "The scheduler's noise shift is not the one that this source was trained with",
                found=found,
                expected=SCHEDULE,
                fix="Use the scheduler of the released pipeline.",
            )
        return pipe.scheduler

    def shift(self, scheduler: Any, num_tokens: int) -> float:
        """Return the noise shift k; it grows with the root of the tokens.

        Raises:
            SourceError: If the scheduler has none of this kind.
        """
        config = scheduler.config
        if not config.get("use_dynamic_shifting") or config.get("time_shift_type") != "linear":
            raise SourceError(
                "The scheduler's noise shift does not grow with the image as this pipeline computes it",
                found=type(scheduler).__name__,
                expected="FlowMatchEulerDiscreteScheduler with use_dynamic_shifting and time_shift_type linear",
                fix="Use the scheduler of the released pipeline.",
            )
        return calculate_shift(num_tokens, *(config[key] for key in ("base_image_seq_len", "base_shift", "max_shift")))

    @torch.no_grad()
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Return GLM's states of each prompt at its own padded length, and the state that every padding token has."""
        rows = pipe.tokenizer(list(prompts), truncation=True, max_length=MAX_TEXT_TOKENS)["input_ids"]
        lengths = [-(-len(row) // TEXT_MULTIPLE) for row in rows]
        # The empty prompt's few tokens leave padding before them.
        padding_D = pipe.encode_prompt([self.null_prompt], do_classifier_free_guidance=False)[0][0, 0]
        items: dict[int, Encoded] = {}
        for length in sorted(set(lengths)):
            places = [place for place, own in enumerate(lengths) if own == length]
            states_BLD, _ = pipe.encode_prompt([prompts[place] for place in places], do_classifier_free_guidance=False)
            paddings_BD = padding_D.expand(len(places), -1)
            items.update(zip(places, split(encoder_hidden_states=states_BLD, padding=paddings_BD), strict=True))
        return [items[place] for place in range(len(prompts))]

    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Return the states, padded on the left as the pipeline pads, and the image's size, cropped nowhere."""
        longest = max(len(item["encoder_hidden_states"]) for item in items)
        states = []
        for item in items:
            own_LD = item["encoder_hidden_states"]
            states.append(torch.cat([item["padding"].expand(longest - len(own_LD), -1), own_LD]))
        patch_px = model.config.get("pixel_patch_size", self.patch_px)
        size_px = [float(places * patch_px) for places in grid]
        size_B2 = torch.tensor([size_px] * len(items), dtype=model.dtype, device=model.device)
        return {
            "encoder_hidden_states": torch.stack(states).to(model.device, model.dtype),
            "original_size": size_B2,
            "target_size": size_B2,
            "crop_coords": torch.zeros_like(size_B2),
        }


FAMILY = CogView4()
PIXEL_CLASS = pixel_transformer_class(FAMILY, name="CogView4PixelTransformer2DModel", module="latent2pixel")
