"""What the model layer has to know of a source's transformer; every module in ``families/`` answers it.

Shape letters: B batch, C image channels, D trunk width, H and W image size in pixels, h and w the token grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

Grid = tuple[int, int]
"""Token rows and columns."""


class Trunk(ABC):
    """How one source transformer takes its noisy sample, names its parts, and hands its hidden states out."""

    transformer_class: ClassVar[type[Any]]
    """The source's own class, of diffusers."""
    latent_patch: ClassVar[int]
    """Latent cells per token and axis, whoever patchifies; the codec factor is the pixel patch divided by it."""
    sign: ClassVar[Literal[-1, 1]]
    """``sign * network output`` is the velocity ``eps - x0``."""
    objective: ClassVar[Literal["flow", "eps"]]
    """What the network was trained to predict: the velocity of a straight path, or DDPM noise."""
    sample_argument: ClassVar[str]
    """Name of the noisy sample in the transformer's ``forward``."""
    timestep_argument: ClassVar[str]
    """Name of the clock in the transformer's ``forward``."""
    input_projections: ClassVar[tuple[str, ...]]
    """Modules that map patches to tokens; made anew for pixels."""
    tail: ClassVar[tuple[str, ...]]
    """Modules behind the last block, dropped for the detailer head."""
    image_blocks: ClassVar[tuple[str, ...]]
    """Main block lists in execution order; refiners and text-only lists do not count."""

    @property
    def new_parts(self) -> tuple[str, ...]:
        """Modules of a pixel model that no source has: input projections, head, and the lift if there is one."""
        return (*self.input_projections, "head", "lift")

    @abstractmethod
    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the config of the pixel model's trunk: the source's with other channel counts.

        Args:
            source_config: Config of the source transformer, without diffusers' private keys.
            factor: Pixels per latent cell and axis.
        """

    @abstractmethod
    def width(self, model: Any) -> int:
        """Return the number of channels of a token inside the trunk."""

    @abstractmethod
    def strip_tail(self, model: Any) -> None:
        """Replace norm and projection behind the last block, so that the trunk returns raw hidden states."""

    @abstractmethod
    def tap_tail(self, model: Any, token_dim: int) -> None:
        """Keep norm and projection behind the last block, but let the trunk return raw hidden states all the same.

        Args:
            model: Transformer of the pixel model, just built.
            token_dim: Values of a latent token, which the projection returns.
        """

    @abstractmethod
    def tail_tokens(self, model: Any, grid: Grid) -> Tensor:
        """Return what the tapped tail made of the last call's image tokens, (B, d, h, w)."""

    @abstractmethod
    def token_dim(self, source_config: Mapping[str, Any]) -> int:
        """Return d, the values of a latent token of the source."""

    @abstractmethod
    def tokens(self, sample: Any) -> Tensor:
        """Return what the input projection receives of a native sample: (B, values of a token, h, w)."""

    @abstractmethod
    def untokens(self, tokens_Bdhw: Tensor) -> Any:
        """Turn tokens into a native sample; undoes ``tokens``."""

    @abstractmethod
    def read(self, sample: Any, factor: int) -> Tensor:
        """Turn the transformer's native sample into a noisy image (B, C, H, W)."""

    @abstractmethod
    def pack(self, noisy_BCHW: Tensor, factor: int) -> Any:
        """Turn a noisy image into the transformer's native sample; undoes ``read``."""

    @abstractmethod
    def feature(self, output: Any, grid: Grid) -> Tensor:
        """Turn what the stripped transformer returns into the feature map (B, D, h, w)."""

    @abstractmethod
    def write(self, image_BCHW: Tensor, factor: int) -> Any:
        """Turn the head's output into what the source's transformer would return to its pipeline."""

    @abstractmethod
    def timestep(self, sigma_B: Tensor) -> Tensor:
        """Return what the transformer receives as its clock at a noise level in [0, 1] (1 is noise), shape (B,)."""

    @abstractmethod
    def sigma(self, timestep_B: Tensor) -> Tensor:
        """Return the noise level in [0, 1] that a clock of the transformer tells; undoes ``timestep``."""


class PassThrough(nn.Module):
    """Stands in for a final norm or projection and returns its input; modulation arguments are ignored."""

    def forward(self, hidden: Tensor, *_modulation: Any, **_named_modulation: Any) -> Tensor:
        """Return the hidden states as they came."""
        return hidden
