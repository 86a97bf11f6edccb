"""What a miniature source needs of a family: its pipeline at toy size, and captions told to it with gradients.

Shape letters: B batch, L tokens of a caption, D width of the text encoder.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from latent2pixel.families.base import Encoded

MiniatureName = Literal["z_image", "cogview4"]
"""Families of which a miniature can be trained: ``<name>_source`` in this package, ``<name>`` in ``families``."""
HEAD_DIM = 32
"""Width of an attention head; the transformer's width is a multiple of it."""
ROPE_AXES = (8, 12, 12)
"""How a head's width is shared among the positions in the text, the rows and the columns."""


class Miniature(ABC):
    """One family at toy size. A module of this package holds one as ``MINIATURE``.

    ``Family`` says how the transformer is called; here comes what a training from nothing needs beside it.
    """

    family: ClassVar[str]
    """Name of the family's module."""

    @abstractmethod
    def build(self, vae: "AutoencoderKL", *, dim: int, num_layers: int) -> Any:
        """Return the stock pipeline around a trained VAE, with untrained text encoder and transformer.

        Args:
            vae: Trained.
            dim: Width of the transformer, a multiple of ``HEAD_DIM``.
            num_layers: Blocks of the transformer.
        """

    @abstractmethod
    def tokenize(self, pipe: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return token ids and mask of captions, (B, L) both, padded on the right, worded as the pipeline does."""

    @abstractmethod
    def encode(self, pipe: Any, ids_BL: Tensor, mask_BL: Tensor, lengths: Sequence[int]) -> "list[Encoded]":
        """Return what ``Family.encode`` returns of the same captions, on the device and with gradients.

        Args:
            pipe: The pipeline in training.
            ids_BL: Token ids, cut to the longest caption of the batch.
            mask_BL: 1 for tokens, 0 for padding.
            lengths: Tokens of each caption: known on the CPU, where asking a GPU would wait for it.
        """


def load_miniature(name: MiniatureName) -> Miniature:
    """Import the miniature of a family by its name and return it."""
    return cast(Miniature, importlib.import_module(f"latent2pixel.world.{name}_source").MINIATURE)


@torch.no_grad()
def initialise(transformer: nn.Module, *, zero: tuple[str, ...]) -> None:
    """Initialise as DiT does: matrices by Glorot, modulations and the last layer zero.

    Args:
        transformer: Just built.
        zero: Parts of the names of modulations and last layer.

    Source:
        Peebles & Xie 2022, "Scalable Diffusion Models with Transformers", section 3.2.
    """
    for name, parameter in transformer.named_parameters():
        if "pad_token" in name:
            nn.init.normal_(parameter, std=0.02)
        elif any(part in name for part in zero) or name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)


@torch.no_grad()
def open_gates(modulation: nn.Linear, *, parts: int, gates: tuple[int, ...]) -> None:
    """Open a block's residual gates a little: DiT starts them at zero, 0.1 lets gradients in from the first step.

    Args:
        modulation: Layer that makes the shifts, scales and gates of a block.
        parts: How many it makes.
        gates: Which of them are gates.
    """
    parts_PD = modulation.bias.view(parts, -1)
    for gate in gates:
        parts_PD[gate] = 0.1
