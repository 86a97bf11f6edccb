"""How a pixel transformer computes, with the same result but for rounding: the head's layout, compiled parts."""

from typing import Any

import torch

from latent2pixel.errors import ConfigError
from latent2pixel.model.predict import unwrapped


def lay_out_head(model: Any) -> None:
    """Store the head's kernels in channels last: convolutions are faster so (benchmarks/head_layout.md)."""
    unwrapped(model).head.to(memory_format=torch.channels_last)


def compile_parts(model: Any, *, backend: str = "inductor") -> None:
    """Compile every block that repeats, once for all of them, and the head.

    Args:
        model: A pixel transformer.
        backend: Of torch.compile.

    Raises:
        ConfigError: If diffusers does not say which blocks of this transformer repeat.
    """
    pixel = unwrapped(model)
    if not pixel._repeated_blocks:
        raise ConfigError(
            "Diffusers names no repeated blocks of this transformer",
            found=f"compile=true with {type(pixel).__name__}",
            expected="compile=false",
            fix="Leave compile out.",
        )
    pixel.compile_repeated_blocks(backend=backend)
    pixel.head.compile(backend=backend)
