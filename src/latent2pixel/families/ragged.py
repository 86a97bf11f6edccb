"""Encoded prompts of different length: cut to their own for the cache, padded again for a batch.

Shape letters: B batch, L text tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latent2pixel.families.base import Encoded


def ragged(mask_BL: Tensor | None, **tensors: Tensor) -> list[Encoded]:
    """Return one dict a sample of tensors (B, L, ..) without what a mask leaves out, copied to the CPU.

    Args:
        mask_BL: True or 1 for tokens that count; None for all of them.
        **tensors: Named, of the same batch and length.
    """
    batch = len(next(iter(tensors.values())))
    rows = [slice(None)] * batch if mask_BL is None else [mask_L.bool() for mask_L in mask_BL]
    return [
        {name: tensor[index][row].clone().cpu() for name, tensor in tensors.items()} for index, row in enumerate(rows)
    ]


def padded(items: Sequence[Encoded], key: str, model: Any, *, multiple: int = 1) -> tuple[Tensor, Tensor | None]:
    """Return the rows of all samples with zeros behind the shorter ones, and a mask, 1 for tokens that count.

    On the model's device and in its dtype. As in diffusers' pipelines there is no mask where nothing is padded.

    Args:
        items: With rows under ``key``.
        key: Name of the rows.
        model: Tells device and dtype.
        multiple: Pad to a multiple of so many rows.
    """
    lengths_B = torch.tensor([len(item[key]) for item in items], device=model.device)
    longest = -(-int(lengths_B.max()) // multiple) * multiple
    states_BL = items[0][key].new_zeros(len(items), longest, *items[0][key].shape[1:], device=model.device)
    for states_L, item in zip(states_BL, items, strict=True):
        states_L[: len(item[key])] = item[key]
    mask_BL = (torch.arange(longest, device=model.device) < lengths_B[:, None]).long()
    return states_BL.to(model.dtype), None if mask_BL.all() else mask_BL


def filled(items: Sequence[Encoded], key: str, mask_key: str, model: Any) -> tuple[Tensor, Tensor]:
    """Return the rows of all samples at the places that their masks tell, zeros elsewhere, and the masks.

    Args:
        items: With rows under ``key``, and under ``mask_key`` a boolean mask of one length for all.
        key: Name of the rows.
        mask_key: Name of the masks.
        model: Tells device and dtype.
    """
    mask_BL = torch.stack([item[mask_key] for item in items]).to(model.device)
    rows = torch.cat([item[key] for item in items]).to(model.device, model.dtype)
    states_BL = rows.new_zeros(*mask_BL.shape, *rows.shape[1:])
    states_BL[mask_BL] = rows
    return states_BL, mask_BL
