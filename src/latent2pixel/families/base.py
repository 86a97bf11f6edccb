"""The Family contract: one source architecture, from prompt to network output.

Shape letters: B batch.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from latent2pixel.errors import SourceError
from latent2pixel.model.trunk import Trunk


class Family(Trunk):
    """One source architecture. A module in this package holds one as ``FAMILY``, and its pixel class.

    ``Trunk`` describes the transformer. Here comes what belongs to the pipeline: prompts and noise schedule.
    """

    name: ClassVar[str]
    """The module's name in this package."""
    pipeline_name: ClassVar[str]
    """The stock diffusers text-to-image pipeline."""
    null_prompt: ClassVar[str] = ""
    """Prompt without content, for classifier-free dropout in training."""

    @abstractmethod
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[dict[str, Tensor]]:
        """Encode prompts with the stock pipeline's own text encoder.

        Args:
            pipe: A loaded pipeline of this family, latent or pixel.
            prompts: Texts; the sequence is left as it is.

        Returns:
            One dict for each prompt, tensors on the CPU and in the encoder's dtype: ready to cache one by one.
        """

    @abstractmethod
    def collate(
        self, items: Sequence[dict[str, Tensor]], *, device: torch.device | str, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Turn encoded prompts into the transformer's arguments for a batch, next to sample and timestep.

        Args:
            items: One dict a sample, as ``encode`` returns them.
            device: Where the transformer runs.
            dtype: Dtype of the transformer.
        """

    @torch.no_grad()
    def latents(self, pipe: Any, images_BCHW: Tensor) -> Any:
        """Encode images in [-1, 1] as the source's transformer sees them: normalised, without noise, native layout.

        Raises:
            SourceError: The VAE has no plain scale and shift.
        """
        config = pipe.vae.config
        if config.get("scaling_factor") is None:
            raise SourceError(
                "The source's VAE normalises its latents in a way that is not known here",
                found=type(pipe.vae).__name__,
                expected="a scaling_factor in its configuration",
                fix="Use the recipe paper for this source.",
            )
        mean_BZHW = pipe.vae.encode(images_BCHW.to(pipe.vae.device, pipe.vae.dtype)).latent_dist.mode().float()
        scaled_BZHW = (mean_BZHW - (config.get("shift_factor") or 0.0)) * config["scaling_factor"]
        return self.native(scaled_BZHW)

    @abstractmethod
    def native(self, latents_BZHW: Tensor) -> Any:
        """Lay a batch of latents out as the transformer takes them."""

    def with_shift(self, scheduler: Any, factor: float) -> Any:
        """Return a copy of a scheduler with its noise shift multiplied."""
        return type(scheduler).from_config(scheduler.config, shift=self.shift(scheduler) * factor)

    def shift(self, scheduler: Any) -> float:
        """Return the static noise shift k of a scheduler; see ``flow.shift_sigma``."""
        return shift_of(scheduler)


def shift_of(scheduler: Any) -> float:
    """Return the static noise shift of a flow-matching scheduler.

    Raises:
        SourceError: If the scheduler has none: it shifts with the image size, or is no flow-matching scheduler.
    """
    dynamic = scheduler.config.get("use_dynamic_shifting", False)
    if dynamic or not hasattr(scheduler, "shift"):
        raise SourceError(
            "The source's scheduler has no static noise shift",
            found=f"{type(scheduler).__name__} with {'dynamic shifting' if dynamic else 'no shift'}",
            expected="FlowMatchEulerDiscreteScheduler with use_dynamic_shifting false",
            fix="Replace the pipeline's scheduler by one with a static shift, or set the shift in the training config.",
        )
    return float(scheduler.shift)
