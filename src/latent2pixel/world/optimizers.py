"""Optimisers for training the miniature source from nothing: Muon for matrices, AdamW for everything else.

Muon is torch's own. The VAE reached PSNR 25 with it after 200 steps of 16 images. AdamW was hardly tuned and stopped
after fewer than 100 steps of 32 images, at 16, so this is no fair comparison (``dev/LOG.md``).
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

ADAMW_RATE = 0.3
"""AdamW's learning rate relative to Muon's, whose updates are scaled to the size of AdamW's."""
_NOT_HIDDEN = ("embed", "conv_in", "conv_out", "final_layer.2-1.linear", "transformer.proj_out", "pad_token")
"""Names of matrices at the model's rim. Muon is for hidden matrices (Jordan et al. 2024, "Muon")."""


class _AsKernel(nn.Module):
    """Shows a matrix as a convolution kernel."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.shape)

    def right_inverse(self, kernel: Tensor) -> Tensor:
        return kernel.flatten(1)


def flatten_kernels(model: nn.Module) -> None:
    """Store every convolution kernel as a matrix, the only shape that ``torch.optim.Muon`` takes."""
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d):
            parametrize.register_parametrization(module, "weight", _AsKernel(module.weight.shape))


def restore_kernels(model: nn.Module) -> None:
    """Undo ``flatten_kernels``."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")


def build_optimizers(
    named_parameters: list[tuple[str, nn.Parameter]], *, learning_rate: float
) -> list[torch.optim.Optimizer]:
    """Return Muon for the hidden matrices and AdamW for the rest.

    Args:
        named_parameters: Names and parameters to train.
        learning_rate: Muon's rate; each group keeps its own as ``peak_lr`` for a schedule.
    """
    matrices = [p for name, p in named_parameters if p.ndim == 2 and not any(part in name for part in _NOT_HIDDEN)]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in named_parameters if id(p) not in chosen]
    optimizers = [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate * ADAMW_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers
