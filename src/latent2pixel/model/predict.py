"""Asking a pixel model of any family, wrapped or not, for its prediction.

Shape letters: B batch, C channels, H height, W width, d values of a latent token, h and w the token grid.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from latent2pixel.flow import network_input, velocity_of
from latent2pixel.model.pixel_transformer import PixelTransformerMixin


def predict_tokens(model: nn.Module, noisy_BCHW: Tensor, sigma_B: Tensor, conditioning: Mapping[str, Any]) -> Tensor:
    """Ask a lifted pixel model for the clean latent tokens behind its image.

    Args:
        model: As in ``predict_velocity``.
        noisy_BCHW: Image at noise level sigma, any float dtype.
        sigma_B: Noise level in [0, 1], 1 is noise.
        conditioning: The trunk's other arguments.

    Returns:
        (B, d, h, w), float32.
    """
    pixel = unwrapped(model)
    clock_B = pixel.told(sigma_B, pixel.grid_of(noisy_BCHW))
    call = {pixel.trunk.sample_argument: noisy_BCHW, pixel.trunk.timestep_argument: clock_B}
    return model(**call, **conditioning).tokens_Bdhw


def predict_velocity(model: nn.Module, noisy_BCHW: Tensor, sigma_B: Tensor, conditioning: Mapping[str, Any]) -> Tensor:
    """Ask a pixel model of any family for the velocity at a noise level, whatever it predicts.

    Args:
        model: Pixel transformer, also inside DistributedDataParallel or torch.compile.
        noisy_BCHW: Image at noise level sigma, any float dtype.
        sigma_B: Noise level in [0, 1], 1 is noise.
        conditioning: The trunk's other arguments, as ``Family.collate`` returns them.

    Returns:
        velocity_BCHW, float32: ``eps - x0``, towards noise.
    """
    predicted_BCHW = predict(model, noisy_BCHW, sigma_B, conditioning)
    return velocity_of(predicted_BCHW, noisy_BCHW, sigma_B, unwrapped(model).trunk.objective)


def predict(model: nn.Module, noisy_BCHW: Tensor, sigma_B: Tensor, conditioning: Mapping[str, Any]) -> Tensor:
    """Ask a pixel model of any family for what it was trained to predict; see ``flow.target``.

    Args:
        model: As in ``predict_velocity``.
        noisy_BCHW: As there, on the straight path.
        sigma_B: Noise level in [0, 1], 1 is noise.
        conditioning: The trunk's other arguments.

    Returns:
        (B, C, H, W), float32.
    """
    pixel = unwrapped(model)
    trunk, clock_B = pixel.trunk, pixel.told(sigma_B, pixel.grid_of(noisy_BCHW))
    given_BCHW = network_input(noisy_BCHW, sigma_B, trunk.objective)
    call = {trunk.sample_argument: given_BCHW, trunk.timestep_argument: clock_B}
    return trunk.sign * model(**call, **conditioning, return_dict=False)[0]


def unwrapped(model: nn.Module) -> Any:
    """Return the pixel transformer inside DistributedDataParallel and torch.compile wrappers, or the model itself."""
    inner: Any = model
    while not isinstance(inner, PixelTransformerMixin):
        inner = inner._orig_mod if hasattr(inner, "_orig_mod") else inner.module
    return inner
