"""LoRAs of a latent source on its pixel model: what they change of parts that are gone is left out."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from latent2pixel.model.trunk import Trunk

logger = logging.getLogger(__name__)


class LatentLoraMixin:
    """Stands before a transformer class that loads LoRAs, in a pixel class."""

    trunk: ClassVar[Trunk]
    config: Mapping[str, Any]

    def load_lora_adapter(self, weights: Any, prefix: str | None = "transformer", **settings: Any) -> Any:
        """Load a LoRA as the source does, without its layers on input projection and, unless it is there, tail.

        diffusers pads a layer of other input size with zeros (``FluxLoraLoaderMixin``), so that a LoRA of the latent
        patches would change, without a word, the projection of a pixel patch's first values.

        Args:
            weights: State dict, or where to find it; as in diffusers.
            prefix: Of the state dict's keys.
            **settings: As in diffusers.
        """
        if isinstance(weights, Mapping):
            gone = (*self.trunk.input_projections, *(() if self.config["lift_config"] else self.trunk.tail))
            start = "" if prefix is None else f"{prefix}."
            dropped = [key for key in weights if key.startswith(tuple(f"{start}{name}." for name in gone))]
            if dropped:
                logger.warning(
                    "left out %d tensors of the LoRA, for parts that a pixel model has anew or not at all: %s",
                    len(dropped),
                    ", ".join(dropped[:3]),
                )
            weights = {key: value for key, value in weights.items() if key not in dropped}
        return super().load_lora_adapter(weights, prefix=prefix, **settings)  # type: ignore[misc]
