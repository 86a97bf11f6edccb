"""What the model layer has to know of a source's transformer; every module in ``families/`` answers it.

Shape letters: B batch, D trunk width, H and W a latent map's size in cells, h and w the token grid, Z channels of a
latent cell, d values of a latent token. A *latent map* is (B, Z, H, W), whoever patchifies it; a pixel model's holds
``factor`` x ``factor`` pixels in each cell.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from latent2pixel.flow import Objective, unshift_sigma
from latent2pixel.model.patch import largest_power_of_two, require_patch, require_pipeline_patch
from latent2pixel.model.positions import PositionLimit
from latent2pixel.model.tail import pass_through, tap
from latent2pixel.model.tokens import Grid, TokenOrder, patchify, unpatchify

Call = Mapping[str, Any]
"""Named arguments of a transformer's ``forward``."""


class Trunk(ABC):
    """How one source transformer takes its noisy sample, names its parts, and hands its hidden states out."""

    transformer_class: ClassVar[type[Any]]
    """The source's own class, of diffusers."""
    latent_patch: ClassVar[int] = 2
    """Latent cells per token and axis, whoever patchifies; the codec factor is the pixel patch divided by it."""
    sign: ClassVar[Literal[-1, 1]] = 1
    """``sign * network output`` is the velocity ``eps - x0``."""
    objective: ClassVar[Objective] = "flow"
    """What the network was trained to predict: the velocity of a straight path, DDPM noise, or DDPM's velocity."""
    sample_argument: ClassVar[str] = "hidden_states"
    """Name of the noisy sample in the transformer's ``forward``."""
    timestep_argument: ClassVar[str] = "timestep"
    """Name of the clock in the transformer's ``forward``."""
    clock: ClassVar[Literal["sigma", "1 - sigma", "1000 sigma"]] = "sigma"
    """What the transformer is told at noise level sigma."""
    clock_in_own_dtype: ClassVar[bool] = False
    """Whether the transformer takes its clock in the dtype of its weights only."""
    input_projections: ClassVar[tuple[str, ...]]
    """Modules that map patches to tokens; made anew for pixels."""
    tail: ClassVar[tuple[str, ...]] = ("norm_out", "proj_out")
    """Modules behind the last block, in execution order, dropped for the detailer head."""
    tail_projection: ClassVar[str] = "proj_out"
    """The tail's last linear layer, which makes latent tokens."""
    image_blocks: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    """Main block lists in execution order; refiners and text-only lists do not count."""
    token_order: ClassVar[TokenOrder] = "channel first"
    """How a token's values are ordered where the input projection takes them."""
    output_order: ClassVar[TokenOrder] = "channel first"
    """How a token's values are ordered where the tail's projection returns them."""

    same_at_every_step: ClassVar[tuple[str, ...]] = ()
    """Modules that see the text or the positions alone, neither the picture nor the clock: in sampling they need run
    once. Lists stand for their members. Those not worth it, such as a single matrix beside many blocks, may be left
    out."""

    patch_px: ClassVar[int] = 16
    """Pixels per token and axis of the released sources."""
    pipeline_patch_px: ClassVar[int | None] = None
    """Pixels per token and axis that the stock pipeline counts with, whatever the codec says; None: what it says."""
    only_patch_px: ClassVar[int | None] = None
    """The one pixel patch, where the transformer is told something of every token of the source; None: any."""
    takes_embedded: ClassVar[bool] = True
    """Whether the transformer runs on patches that are embedded already: not where it counts the values of a patch."""

    @property
    def new_parts(self) -> tuple[str, ...]:
        """Modules of a pixel model that no source has: input projections, head, and the lift if there is one."""
        return (*self.input_projections, "head", "lift")

    def codec_factor(self, pixel_patch_size: int) -> int:
        """Return the pixels per latent cell and axis, as the pipeline counts them.

        Its VAEs have powers of two only: the largest of the trunk's factor, 16 of the 80 of patch 160. The pipeline's
        tokens are then smaller than the trunk's, which sees 5 x 5 of them as one.
        """
        if self.pipeline_patch_px is not None:
            return self.pipeline_patch_px // self.latent_patch
        return largest_power_of_two(pixel_patch_size // self.latent_patch)

    def require_patch(self, pixel_patch_size: int, *, num_head_levels: int) -> None:
        """Check that a pixel patch fits the transformer, its pipeline and a head.

        Raises:
            GeometryError: If it does not.
        """
        require_patch(pixel_patch_size, latent_patch=self.latent_patch, num_head_levels=num_head_levels)
        require_pipeline_patch(pixel_patch_size, multiple_of=self.pipeline_patch_px, only=self.only_patch_px)

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

    def position_limit(self, config: Mapping[str, Any]) -> PositionLimit:
        """Return the largest token grid that the transformer has positions for.

        Args:
            config: Config of the source transformer or of its pixel model.
        """
        del config
        return PositionLimit()

    def unreached(self, model: Any) -> tuple[str, ...]:
        """Return modules and parameters that no gradient reaches; they never train, and would stall a multi-GPU run.

        Such as the text side of a last block, whose output nothing reads.
        """
        del model
        return ()

    @abstractmethod
    def token_dim(self, source_config: Mapping[str, Any]) -> int:
        """Return d, the values of a latent token of the source."""

    @abstractmethod
    def map_of(self, call: Call) -> Tensor:
        """Return the latent map of a call's native sample, (B, Z, H, W)."""

    def at_grid(self, call: Call, grid: Grid) -> dict[str, Any]:
        """Return a call with its positions for a grid of larger tokens: those of its first rows and columns.

        Args:
            call: Of a pipeline, whose tokens may be smaller than the trunk's.
            grid: The trunk's.
        """
        del grid
        return dict(call)

    @abstractmethod
    def sample(self, map_BZHW: Tensor, call: Call) -> Any:
        """Lay a latent map out as the transformer takes it; undoes ``map_of``. ``call`` holds the other arguments."""

    def output(self, map_BZHW: Tensor, call: Call) -> Any:
        """Lay a latent map out as the source's transformer returns it to its pipeline: as its sample, unless told."""
        return self.sample(map_BZHW, call)

    @abstractmethod
    def carried(self, model: Any, output: Any, grid: Grid) -> Tensor:
        """Return what a transformer without its tail carries out on its image tokens: (B, values, h, w)."""

    def carry(self, model: Any, num_values: int) -> None:
        """Make the transformer's own unpatchify, if it has one, carry so many values a token out."""
        model.out_channels = num_values // self.latent_patch**2

    def strip_tail(self, model: Any) -> None:
        """Replace norm and projection behind the last block, so that the trunk returns raw hidden states."""
        pass_through(model, self.tail)
        self.carry(model, self.width(model))

    def tap_tail(self, model: Any, token_dim: int) -> None:
        """Keep norm and projection behind the last block, and let the trunk return hidden states and their output.

        Args:
            model: Transformer of the pixel model, just built.
            token_dim: Values of a latent token, which the projection returns.
        """
        tap(model, self.tail, projection=self.tail_projection, num_values=token_dim)
        self.carry(model, self.width(model) + token_dim)

    def tail_tokens(self, values_Bdhw: Tensor) -> Tensor:
        """Bring what the tapped tail made of image tokens into the order of the input projection, (B, d, h, w)."""
        if self.output_order == self.token_order:
            return values_Bdhw
        return self.tokens(unpatchify(values_Bdhw, self.latent_patch, self.output_order))

    def tokens(self, map_BZHW: Tensor) -> Tensor:
        """Return what the input projection receives of a latent map: (B, values of a token, h, w)."""
        return patchify(map_BZHW, self.latent_patch, self.token_order)

    def untokens(self, tokens_Bdhw: Tensor) -> Tensor:
        """Return the latent map of tokens, (B, Z, H, W); undoes ``tokens``."""
        return unpatchify(tokens_Bdhw, self.latent_patch, self.token_order)

    def timestep(self, sigma_B: Tensor) -> Tensor:
        """Return what the transformer receives as its clock at a noise level in [0, 1] (1 is noise), shape (B,).

        Computed by way of thousandths, as schedulers and pipelines do it, so that the rounding agrees to the last bit.
        """
        thousandths_B = 1000 * sigma_B
        if self.clock == "1000 sigma":
            return thousandths_B
        return (1000 - thousandths_B) / 1000 if self.clock == "1 - sigma" else thousandths_B / 1000

    def clock_shift(self, num_tokens: float) -> float | None:
        """Return the noise shift behind the clock, where the transformer is told the time before it; None: nowhere.

        Args:
            num_tokens: Of one image; pipelines let the shift grow with them.
        """
        del num_tokens
        return None

    def told(self, sigma_B: Tensor, num_tokens: float) -> Tensor:
        """Return what the source is told at a noise level of its latents, for an image of so many tokens."""
        return self.timestep(unshift_sigma(sigma_B, self.clock_shift(num_tokens) or 1.0))

    def sigma(self, timestep_B: Tensor) -> Tensor:
        """Return the noise level in [0, 1] that a clock of the transformer tells; undoes ``timestep``."""
        if self.clock == "1000 sigma":
            return timestep_B / 1000
        return 1 - timestep_B if self.clock == "1 - sigma" else timestep_B


def is_under(key: str, prefixes: tuple[str, ...]) -> bool:
    """Tell whether a state-dict key belongs to one of the named modules or parameters."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
