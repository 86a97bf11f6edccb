"""Pixel transformers: the source's own class with pixel patches in front and a detailer head behind.

Shape letters: B batch, C image channels, D trunk width, d values of a latent
token, V values that the trunk carries out of a token, H and W image size in pixels, h and w the token grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn
from torch.nn import functional

from latent2pixel.flow import shift_sigma, unshift_sigma, velocity_from_clean
from latent2pixel.model.head import HEAD_CHANNELS, DetailerHead
from latent2pixel.model.initialise import initialise_like_torch, start_from_lift
from latent2pixel.model.lift import Lift, LiftedEnds, LiftedInput, LiftFit, joined_features
from latent2pixel.model.positions import token_grid
from latent2pixel.model.tokens import Grid, places_in_patch
from latent2pixel.model.trunk import Trunk, is_under

IMAGE_CHANNELS = 3
PIXEL_CONFIG: dict[str, Any] = {
    "pixel_patch_size": 16,
    "head_channels": HEAD_CHANNELS["1k"],
    "head_feature_norm": "none",
    "lift_config": None,
}
"""Config keys that a pixel transformer adds to its source's, with the published 1K values.

``lift_config`` is none, or {"scale": s, "token_dim": d, "wiener": whether it filters the residual} of a ``Lift``, and
"fit": ``LiftFit.figures``, which only inform.
"""


@dataclass
class PixelTransformerOutput(Transformer2DModelOutput):
    """What a pixel transformer returns."""

    tokens_Bdhw: Tensor | None = None
    """With a lift: the clean latent tokens that the trunk predicts, float32."""


class PixelTransformerMixin(nn.Module):
    """Everything that pixel transformers of all families share; ``pixel_transformer_class`` joins it with one.

    ``forward`` takes the arguments of the source's ``forward``. The sample may be the source's native one (then the
    native output comes back, so stock pipelines work) or a plain image (B, 3, H, W) (then an image comes back).
    """

    trunk: ClassVar[Trunk]
    config: Mapping[str, Any]
    dtype: torch.dtype
    head: DetailerHead
    lift: Lift
    _trunk_arguments: ClassVar[tuple[str, ...]]

    @property
    def factor(self) -> int:
        """Pixels per latent cell and axis, as the trunk is given them."""
        return self.config["pixel_patch_size"] // self.trunk.latent_patch

    @property
    def codec_factor(self) -> int:
        """Pixels per latent cell and axis, as the pipeline counts them; see ``Trunk.codec_factor``."""
        return self.trunk.codec_factor(self.config["pixel_patch_size"])

    def pipeline_tokens(self, grid: Grid) -> int:
        """Return how many tokens the pipeline counts where the trunk has a grid; its noise shift may hang on it."""
        return grid[0] * grid[1] * (self.factor // self.codec_factor) ** 2

    def forward(self, *args: Any, **kwargs: Any) -> PixelTransformerOutput | tuple[Any]:
        """Run the source's trunk on pixel patches and the detailer head on its hidden states.

        Args:
            *args: As the source's ``forward``.
            **kwargs: As the source's ``forward``; the sample in native layout or as an image (B, 3, H, W).

        Returns:
            What the source would return, or an image (B, 3, H, W); ``trunk.sign`` times it is the velocity. Always
            float32: stock pipelines keep their running sample in the dtype of this output, and a bfloat16 sample costs
            up to 12 of 255 levels.

        Raises:
            GeometryError: As ``grid_of_size``.
        """
        call = dict(zip(self._trunk_arguments, args, strict=False), **kwargs)
        return_dict = call.pop("return_dict", True)
        sample = call[self.trunk.sample_argument]
        is_image = isinstance(sample, Tensor) and sample.ndim == 4 and sample.shape[1] == IMAGE_CHANNELS
        noisy_BCHW = sample if is_image else functional.pixel_shuffle(self.trunk.map_of(call), self.codec_factor)
        grid = self.grid_of(noisy_BCHW)
        run = self._forward_lifted if self.config["lift_config"] else self._forward_plain
        image_BCHW, tokens_Bdhw = run(noisy_BCHW, grid, call if is_image else self.call_of_trunk(call, grid))
        if is_image:
            result = image_BCHW
        else:
            result = self.trunk.output(functional.pixel_unshuffle(image_BCHW, self.codec_factor), call)
        return PixelTransformerOutput(sample=result, tokens_Bdhw=tokens_Bdhw) if return_dict else (result,)

    def call_of_trunk(self, call: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
        """Return a pipeline's call as the trunk takes it, whose tokens may be larger than the pipeline's."""
        return dict(call) if self.factor == self.codec_factor else self.trunk.at_grid(call, grid)

    def _forward_plain(self, noisy_BCHW: Tensor, grid: Grid, call: dict[str, Any]) -> tuple[Tensor, None]:
        """Return the head's image: patches in, hidden states to the head."""
        noisy_BCHW = noisy_BCHW.to(self.dtype)
        return self.head(noisy_BCHW, self._carried(noisy_BCHW, grid, call)).float(), None

    def _forward_lifted(self, noisy_BCHW: Tensor, grid: Grid, call: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the velocity to the clean image that lift, source and head together predict, and its tokens."""
        noisy_BCHW = noisy_BCHW.float()
        sigma_B = self.sigma_told(call[self.trunk.timestep_argument], grid).expand(len(noisy_BCHW))
        ends = self.lift_in(noisy_BCHW, sigma_B)
        lifted = self.lift.enter(noisy_BCHW, sigma_B, correction_Bdhw=ends.correction_Bdhw)
        tokens_Bdhw, feature_BDhw = self._denoise(lifted, grid, call)
        clean_BCHW = self.lift_out(noisy_BCHW, sigma_B, ends, tokens_Bdhw=tokens_Bdhw, feature_BDhw=feature_BDhw)
        return self.trunk.sign * velocity_from_clean(noisy_BCHW, clean_BCHW, sigma_B), tokens_Bdhw

    def _denoise(self, lifted: LiftedInput, grid: Grid, call: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Run the trunk on lifted tokens; return the clean ones that it predicts and its last hidden states."""
        call[self.trunk.timestep_argument] = self.trunk.told(lifted.sigma_B, grid[0] * grid[1])
        carried_BVhw = self._carried(lifted.image_BCHW.to(self.dtype), grid, call)
        return self.clean_tokens(carried_BVhw, lifted.tokens_Bdhw, lifted.sigma_B)

    def clean_tokens(self, carried_BVhw: Tensor, tokens_Bdhw: Tensor, sigma_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clean latent tokens that a lifted model's trunk predicts, and its last hidden states.

        Args:
            carried_BVhw: What the trunk carried out.
            tokens_Bdhw: The noisy latent tokens that it was given, float32.
            sigma_B: Their noise level.
        """
        # What the tapped tail made of the hidden states comes behind them.
        token_dim = self.config["lift_config"]["token_dim"]
        feature_BDhw, values_Bdhw = carried_BVhw.tensor_split([carried_BVhw.shape[1] - token_dim], dim=1)
        latent_velocity_Bdhw = self.trunk.sign * self.trunk.tail_tokens(values_Bdhw).float()
        return tokens_Bdhw - sigma_B.view(-1, 1, 1, 1) * latent_velocity_Bdhw, feature_BDhw

    @torch.no_grad()
    def denoise_latents(
        self, tokens_Bdhw: Tensor, noise_BCHW: Tensor, sigma_B: Tensor, conditioning: Mapping[str, Any]
    ) -> Tensor:
        """Return what the trunk predicts where it sees true noisy latents: just converted, it is the source itself.

        Args:
            tokens_Bdhw: Clean latent tokens, float32.
            noise_BCHW: Noise of the pixels; the latents get the part of it that the lift sees, which is white too.
            sigma_B: The pixels' noise level in [0, 1].
            conditioning: The trunk's other arguments, as ``Family.collate`` returns them.

        Returns:
            Predicted clean tokens, (B, d, h, w), float32.
        """
        grid = (tokens_Bdhw.shape[-2], tokens_Bdhw.shape[-1])
        return self._denoise(self.lift.noisy_latents(tokens_Bdhw, noise_BCHW, sigma_B), grid, dict(conditioning))[0]

    def lift_in(self, noisy_BCHW: Tensor, sigma_B: Tensor) -> LiftedEnds:
        """Run the head's down path and the stem: all that happens before the trunk.

        Args:
            noisy_BCHW: Image at noise level sigma, float32.
            sigma_B: Noise level in [0, 1].
        """
        seen_BCHW = self.lift.seen_by_head(noisy_BCHW, sigma_B).to(self.dtype)
        skips, coarse_BChw = self.head.start(seen_BCHW)
        patch = self.config["pixel_patch_size"]
        grid = (noisy_BCHW.shape[-2] // patch, noisy_BCHW.shape[-1] // patch)
        # With patches larger than the head is deep, a token covers several of its coarsest cells.
        stem_BChw = functional.adaptive_avg_pool2d(coarse_BChw, grid)
        if not self.lift.stem.weight.requires_grad:
            # A frozen stem passes no gradient on: with the first blocks frozen too, none is stored for the trunk.
            stem_BChw = stem_BChw.detach()
        correction_Bdhw = self.lift.stem(stem_BChw).float()
        return LiftedEnds(seen_BCHW=seen_BCHW, skips=skips, coarse_BChw=coarse_BChw, correction_Bdhw=correction_Bdhw)

    def lift_out(
        self,
        noisy_BCHW: Tensor,
        sigma_B: Tensor,
        ends: LiftedEnds,
        *,
        tokens_Bdhw: Tensor,
        feature_BDhw: Tensor | None = None,
    ) -> Tensor:
        """Decode clean latent tokens: all that happens behind the trunk.

        Args:
            noisy_BCHW: Image at noise level sigma, float32.
            sigma_B: Noise level in [0, 1].
            ends: What ``lift_in`` returned for them.
            tokens_Bdhw: Clean latent tokens.
            feature_BDhw: The trunk's last hidden states; None where no trunk has run.

        Returns:
            The clean image, (B, C, H, W), float32.
        """
        if feature_BDhw is None:
            batch, _, rows, columns = tokens_Bdhw.shape
            feature_BDhw = tokens_Bdhw.new_zeros(batch, self.trunk.width(self), rows, columns)
        joined_BDhw = joined_features(feature_BDhw, tokens_Bdhw)
        detail_BCHW = self.head.finish(ends.seen_BCHW, ends.skips, ends.coarse_BChw, feature_BDhw=joined_BDhw)
        return self.lift.leave(noisy_BCHW, sigma_B, tokens_Bdhw) + detail_BCHW.float()

    def _carried(self, image_BCHW: Tensor, grid: Grid, call: dict[str, Any]) -> Tensor:
        """Run the trunk on an image and return what it carries out: (B, D, h, w), with a lift (B, D + d, h, w)."""
        return self.run_trunk(functional.pixel_unshuffle(image_BCHW, self.factor), grid, call)

    def run_trunk(self, map_BZHW: Tensor, grid: Grid, call: dict[str, Any]) -> Tensor:
        """Do what ``_carried`` does for an image that is folded already, as the source's latent map is."""
        call[self.trunk.sample_argument] = self.trunk.sample(map_BZHW, call)
        if self.trunk.clock_in_own_dtype:
            call[self.trunk.timestep_argument] = call[self.trunk.timestep_argument].to(self.dtype)
        return self.trunk.carried(self, super().forward(**call, return_dict=False)[0], grid)

    def told(self, sigma_B: Tensor, grid: Grid) -> Tensor:
        """Return what a pipeline tells the model as its clock at a noise level, for an image of so many tokens."""
        return self.trunk.timestep(unshift_sigma(sigma_B, self._clock_shift(grid)))

    def sigma_told(self, timestep_B: Tensor, grid: Grid) -> Tensor:
        """Return the pixels' noise level that a pipeline tells as the model's clock; undoes ``told``."""
        return shift_sigma(self.trunk.sigma(timestep_B.float()), self._clock_shift(grid))

    def _clock_shift(self, grid: Grid) -> float:
        """Return the shift between clock and noise level as the pipeline's scheduler has it; see ``with_shift``."""
        lift, num_tokens = self.config["lift_config"], float(grid[0] * grid[1])
        if lift:
            num_tokens *= (self.config["pixel_patch_size"] / self.trunk.patch_px) ** 2
        shift = self.trunk.clock_shift(num_tokens)
        return 1.0 if shift is None else shift * (lift["scale"] if lift else 1.0)

    def grid_of(self, images_BCHW: Tensor) -> Grid:
        """Return the token rows and columns of images; see ``grid_of_size``."""
        return self.grid_of_size(images_BCHW.shape[-2], images_BCHW.shape[-1])

    def grid_of_size(self, height: int, width: int) -> Grid:
        """Return the token rows and columns of an image size in pixels.

        Raises:
            GeometryError: If it does not divide into whole patches, or the trunk has no positions for so many.
        """
        limit = self.trunk.position_limit(self.config)
        return token_grid((height, width), patch_px=self.config["pixel_patch_size"], limit=limit)

    @classmethod
    def from_config_of(
        cls,
        source_config: Mapping[str, Any],
        *,
        pixel_patch_size: int = PIXEL_CONFIG["pixel_patch_size"],
        head_channels: tuple[int, ...] = PIXEL_CONFIG["head_channels"],
        head_feature_norm: str = PIXEL_CONFIG["head_feature_norm"],
        lift_scale: float | None = None,
        lift_wiener: bool = False,
        lift_figures: Mapping[str, float] | None = None,
    ) -> "PixelTransformerMixin":
        """Build the pixel model of a source's config on the meta device: shapes and names, no memory.

        Args:
            source_config: Config of the source transformer.
            pixel_patch_size: Pixels per token and axis.
            head_channels: Channels per level of the detailer head.
            head_feature_norm: See ``DetailerHead``.
            lift_scale: Scale s of a ``Lift``; none builds the published model.
            lift_wiener: Whether the lift filters the decode's residual.
            lift_figures: How well the lift fits (``LiftFit.figures``), kept in the config.

        Raises:
            GeometryError: If patch, latent patch and head do not fit together.
        """
        cls.trunk.require_patch(pixel_patch_size, num_head_levels=len(head_channels))
        public = {key: value for key, value in source_config.items() if not key.startswith("_")}
        lift = None
        if lift_scale is not None:
            lift = {
                "scale": lift_scale,
                "token_dim": cls.trunk.token_dim(public),
                "wiener": lift_wiener,
                "fit": dict(lift_figures or {}),
            }
        config = cls.trunk.pixel_config(public, cls.trunk.codec_factor(pixel_patch_size))
        with init_empty_weights(include_buffers=False):
            return cls(
                **config,
                pixel_patch_size=pixel_patch_size,
                head_channels=tuple(head_channels),
                head_feature_norm=head_feature_norm,
                lift_config=lift,
            )

    @classmethod
    def from_source(
        cls,
        transformer: Any,
        *,
        pixel_patch_size: int = PIXEL_CONFIG["pixel_patch_size"],
        head_channels: tuple[int, ...] = PIXEL_CONFIG["head_channels"],
        head_feature_norm: str = PIXEL_CONFIG["head_feature_norm"],
        lift: LiftFit | None = None,
        lift_wiener: bool = False,
        generator: torch.Generator,
    ) -> "PixelTransformerMixin":
        """Turn a loaded source into a pixel model without copying it: kept tensors share the source's storage.

        Args:
            transformer: The source, a model of ``trunk.transformer_class``; its device and dtype are taken over.
            pixel_patch_size: Pixels per token and axis.
            head_channels: Channels per level of the detailer head.
            head_feature_norm: See ``DetailerHead``.
            lift: Start from the closed form of this fit instead of a random projection.
            lift_wiener: Whether the lift filters the decode's residual.
            generator: CPU generator from which the new parts are drawn; the global random state stays untouched.

        Raises:
            GeometryError: If patch, latent patch and head do not fit together.
            RuntimeError: If source and pixel model differ outside the declared parts; ``convert.plan_conversion``
                says so in a user's words first.
        """
        model = cls.from_config_of(
            transformer.config,
            pixel_patch_size=pixel_patch_size,
            head_channels=head_channels,
            head_feature_norm=head_feature_norm,
            lift_scale=None if lift is None else lift.scale,
            lift_wiener=lift_wiener,
            lift_figures=None if lift is None else lift.figures(),
        )
        parts = [model.get_submodule(name) for name in cls.trunk.new_parts if name != "lift" or lift is not None]
        for part in parts:
            initialise_like_torch(part.to_empty(device="cpu"), generator=generator)
        if lift is not None:
            start_from_lift(model, lift, transformer, generator=generator)
        for part in parts:
            part.to(device=transformer.device, dtype=transformer.dtype)
        dropped = (*(cls.trunk.tail if lift is None else ()), *cls.trunk.new_parts)
        state = {key: value for key, value in transformer.state_dict().items() if not is_under(key, dropped)}
        state |= {key: value for key, value in model.state_dict().items() if is_under(key, cls.trunk.new_parts)}
        model.load_state_dict(state, strict=True, assign=True)
        return model.train(transformer.training)

    def patch_order(self) -> Tensor:
        """Return, for each value of the trunk's own pixel token, its place in a patch of ``pixel_unshuffle``, (D,)."""
        places_BCHW = places_in_patch(self.config["pixel_patch_size"])
        return self.trunk.tokens(functional.pixel_unshuffle(places_BCHW, self.factor)).flatten()
