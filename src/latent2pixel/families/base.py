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
