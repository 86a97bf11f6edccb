"""The Family contract: one source architecture, from prompt to network output.

Shape letters: B batch, Z channels of a latent cell, H and W size in pixels or latent cells, h and w the token grid.
"""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from latent2pixel.errors import SourceError
from latent2pixel.families import PIXEL_CLASSES
from latent2pixel.families.noise_shift import MAX_TOKENS, scaled_shift, shift_of
from latent2pixel.flow import DiffusionClock, sample_sigmas, shift_sigma
from latent2pixel.io.pipeline_folder import parts_of, read_index
from latent2pixel.model.pixel_transformer import IMAGE_CHANNELS
from latent2pixel.model.tokens import Grid, patchify, to_grid, to_sequence
from latent2pixel.model.trunk import Call, Trunk

Encoded = dict[str, Tensor]
"""An encoded prompt, or what is told of an image: named tensors of one sample, without a batch axis."""


class Family(Trunk):
    """One source architecture. A module in this package holds one as ``FAMILY``, and its pixel class.

    ``Trunk`` describes the transformer. Here comes what belongs to the pipeline: prompts, latents and noise schedule.
    """

    name: ClassVar[str]
    """The module's name in this package."""
    pipeline_names: ClassVar[tuple[str, ...]]
    """The stock diffusers text-to-image pipelines, the usual one first."""
    twins: ClassVar[tuple[str, ...]] = ()
    """Further parts of the pipeline, networks of the same class, whose place a pixel model takes as well."""
    status: ClassVar[str] = "contract tests at tiny size"
    """How far it has been proved."""
    optional_text_encoders: ClassVar[tuple[str, ...]] = ()
    """Parts that the pipeline does without."""
    reads_images: ClassVar[bool] = False
    """Whether the transformer is told something of an image beside its prompt, which ``encode_images`` returns."""
    one_prompt_a_call: ClassVar[bool] = False
    """Whether the pipeline fails with several prompts, or makes other images of a prompt beside others than alone."""
    null_prompt: ClassVar[str] = ""
    """Prompt without content, for classifier-free dropout in training."""

    @abstractmethod
    def encode(self, pipe: Any, prompts: Sequence[str]) -> list[Encoded]:
        """Encode prompts with the stock pipeline's own text encoder.

        Args:
            pipe: A loaded pipeline of this family, latent or pixel.
            prompts: Texts; the sequence is left as it is.

        Returns:
            One dict for each prompt, tensors on the CPU and in the encoder's dtype: ready to cache one by one.
        """

    def encode_images(self, pipe: Any, images_BCHW: Tensor) -> list[Encoded]:
        """Return what the transformer is told of images beside their prompts: nothing, unless it ``reads_images``.

        Args:
            pipe: A loaded pipeline of this family, latent or pixel.
            images_BCHW: In [-1, 1].

        Returns:
            One dict for each image, tensors on the CPU, with other keys than those of ``encode``.
        """
        return [{} for _ in images_BCHW]

    @abstractmethod
    def collate(self, model: Any, items: Sequence[Encoded], grid: Grid) -> dict[str, Any]:
        """Turn encoded prompts into the transformer's arguments for a batch, next to sample and timestep.

        Args:
            model: The transformer, latent or pixel; tells config, device and dtype.
            items: One dict a sample, as ``encode`` returns them, joined with what ``encode_images`` returns of the
                sample's image; a sample whose caption is dropped is told nothing of its image either.
            grid: Token rows and columns of the images.
        """

    def call_options(self, pipe: Any, *, guidance_scale: float, num_prompts: int) -> dict[str, Any]:
        """Return what a call of the stock pipeline needs beside prompts, size and steps: guidance as it takes it.

        Args:
            pipe: The pipeline, latent or pixel.
            guidance_scale: Weight of the prompt; what means no guidance is the pipeline's own convention.
            num_prompts: Prompts of the call.
        """
        return {"guidance_scale": guidance_scale}

    def images(self, pipe: Any, *, height: int, width: int, **call: Any) -> Any:
        """Call the stock pipeline for images of exactly this size, and return them.

        Args:
            pipe: The pipeline, latent or pixel.
            height: In pixels; pipelines that know usual sizes are kept from choosing one near it.
            width: In pixels.
            **call: As the pipeline's call, ``call_options`` among it.

        Returns:
            What the pipeline returns as images.
        """
        binned = "use_resolution_binning" in inspect.signature(pipe.__call__).parameters
        exact = {"use_resolution_binning": False} if binned else {}
        return pipe(**{"height": height, "width": width, **exact, **call}).images

    def require_text_encoders(self, pipe: Any) -> None:
        """Check that a pipeline has what ``encode`` needs.

        Raises:
            SourceError: If a text encoder or its tokenizer is missing.
        """
        kinds = ("text_encoder", "tokenizer", "processor", "vision_language_encoder")
        needed = [name for name in pipe.components if name.startswith(kinds)]
        optional = (*self.optional_text_encoders, *pipe._optional_components)
        missing = [name for name in needed if pipe.components[name] is None and name not in optional]
        if missing:
            raise SourceError(
                "The pipeline cannot encode prompts",
                found=f"no {', no '.join(missing)}",
                expected=", ".join(needed),
                fix="Convert a source with all of its text encoders, or copy these parts into the folder.",
            )

    def latents(self, pipe: Any, images_BCHW: Tensor) -> Tensor:
        """Encode images in [-1, 1] to the latent map that the source's transformer knows: normalised, without noise.

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
        return (self.vae_mean(pipe, images_BCHW) - (config.get("shift_factor") or 0.0)) * config["scaling_factor"]

    @torch.no_grad()
    def vae_mean(self, pipe: Any, images_BCHW: Tensor) -> Tensor:
        """Return the VAE's own latents of images in [-1, 1], before any normalisation: (B, Z, H, W), float32."""
        return pipe.vae.encode(images_BCHW.to(pipe.vae.device, pipe.vae.dtype)).latent_dist.mode().float()

    def token_px(self, pipe: Any) -> int:
        """Return the pixels per token and axis of a latent pipeline."""
        return pipe.vae_scale_factor * self.latent_patch

    def shift(self, scheduler: Any, num_tokens: int) -> float:
        """Return the noise shift k of a scheduler for images of so many tokens; see ``flow.shift_sigma``.

        Raises:
            SourceError: If the scheduler has none.
        """
        return shift_of(scheduler, num_tokens)

    def sample_sigmas(
        self,
        batch: int,
        *,
        scheduler: Any,
        num_tokens: int,
        shift: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw the noise levels of one training batch as the source's own training did.

        Args:
            batch: Number of levels.
            scheduler: Of the pipeline.
            num_tokens: Tokens of one image.
            shift: Noise shift instead of the scheduler's.
            generator: CPU generator.

        Raises:
            SourceError: If the scheduler has no noise shift and none is given.
        """
        shift = self.shift(scheduler, num_tokens) if shift is None else shift
        return sample_sigmas(batch, shift=shift, generator=generator)

    def with_shift(self, scheduler: Any, factor: float, *, token_factor: float = 1.0) -> Any:
        """Return a copy of a scheduler with its noise shift multiplied, at every image size; see ``scaled_shift``."""
        return scaled_shift(scheduler, factor, token_factor=token_factor)

    def with_smaller_tokens(self, scheduler: Any, token_factor: float) -> Any:
        """Return a scheduler with the same noise shift where so many times as many tokens are counted in an image."""
        if token_factor == 1 or not scheduler.config.get("use_dynamic_shifting", False):
            return scheduler
        return self.with_shift(scheduler, 1.0, token_factor=token_factor)

    def with_noise_shift(self, scheduler: Any, noise_shift: float) -> Any:
        """Return a copy of a scheduler with this noise shift, for images of ``MAX_TOKENS`` tokens where it grows.

        Raises:
            SourceError: If it has none, or the transformer is told the time before it: its clock hangs on the source's.
        """
        if self.clock_shift(MAX_TOKENS) is not None:
            raise SourceError(
                "The noise shift of this source cannot be chosen: its transformer is told the time before the shift",
                found=f"noise shift {noise_shift:g} for {type(scheduler).__name__}",
                expected="the scheduler of the released pipeline",
                fix="Leave --noise-shift out, or choose the recipe lift, whose shift is derived.",
            )
        return self.with_shift(scheduler, noise_shift / self.shift(scheduler, MAX_TOKENS))

    def scheduler(self, pipe: Any) -> Any:
        """Return a scheduler whose own noise shift is the one that a latent pipeline samples with: the pipeline's.

        Other ones where the pipeline passes over the shift of its scheduler.
        """
        return pipe.scheduler

    def width(self, model: Any) -> int:
        """Return the width of all attention heads together."""
        return model.config["num_attention_heads"] * model.config["attention_head_dim"]


class MapFamily(Family):
    """Transformers that take a latent map and patchify it themselves."""

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with 3 * factor**2 channels in, and as many out where it names them."""
        channels = IMAGE_CHANNELS * factor**2
        both = {"in_channels": channels} | ({"out_channels": channels} if "out_channels" in source_config else {})
        return {**source_config, **both}

    def token_dim(self, source_config: Mapping[str, Any]) -> int:
        """Return the channels of a cell times the cells of a token."""
        return source_config["in_channels"] * self.latent_patch**2

    def map_of(self, call: Call) -> Tensor:
        """Return the sample: it is a latent map."""
        return call[self.sample_argument]

    def sample(self, map_BZHW: Tensor, call: Call) -> Any:
        """Return the latent map as it is."""
        return map_BZHW

    def carried(self, model: Any, output: Any, grid: Grid) -> Tensor:
        """Undo the transformer's own unpatchify."""
        return patchify(output, self.latent_patch, self.output_order)


class TokenFamily(Family):
    """Transformers whose pipeline patchifies: the sample is a row of tokens, (B, h * w, values)."""

    def pixel_config(self, source_config: Mapping[str, Any], factor: int) -> dict[str, Any]:
        """Return the source's config with the values of a pixel token in, and as many out."""
        values = IMAGE_CHANNELS * (factor * self.latent_patch) ** 2
        return {**source_config, "in_channels": values} | (
            {"out_channels": None} if "out_channels" in source_config else {}
        )

    def token_dim(self, source_config: Mapping[str, Any]) -> int:
        """Return the values of a token as the pipeline packs it."""
        return source_config["in_channels"]

    @abstractmethod
    def grid(self, call: Call) -> Grid:
        """Return token rows and columns of a call, from its position arguments."""

    def map_of(self, call: Call) -> Tensor:
        """Undo the pipeline's packing."""
        return self.untokens(to_grid(call[self.sample_argument], self.grid(call)))

    def sample(self, map_BZHW: Tensor, call: Call) -> Any:
        """Pack as the pipeline does."""
        return to_sequence(self.tokens(map_BZHW))

    def carried(self, model: Any, output: Any, grid: Grid) -> Tensor:
        """Put the row of tokens on its grid."""
        return to_grid(output, grid)

    def carry(self, model: Any, num_values: int) -> None:
        """Do nothing: tokens leave the transformer as they are."""


class DiffusionFamily(MapFamily):
    """DDPM sources: they predict noise, or DDPM's velocity, at whole steps of a schedule."""

    clock_scheduler: ClassVar[Any]
    """A diffusers scheduler with the noise levels that the source was trained at."""

    @cached_property
    def diffusion_clock(self) -> DiffusionClock:
        """Steps and their noise levels."""
        return DiffusionClock(self.clock_scheduler.alphas_cumprod)

    def timestep(self, sigma_B: Tensor) -> Tensor:
        """Return the step whose noise level is nearest."""
        return self.diffusion_clock.timestep(sigma_B)

    def sigma(self, timestep_B: Tensor) -> Tensor:
        """Return the noise level of a step."""
        return self.diffusion_clock.sigma(timestep_B)

    def sample_sigmas(
        self,
        batch: int,
        *,
        scheduler: Any,
        num_tokens: int,
        shift: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw noise levels of steps, all alike, shifted if asked for.

        Raises:
            SourceError: If the scheduler has other noise levels than the source was trained at.
        """
        found, known = getattr(scheduler, "alphas_cumprod", None), self.clock_scheduler.alphas_cumprod
        if found is None or found.shape != known.shape or not torch.allclose(found.cpu(), known, atol=1e-5):
            raise SourceError(
                "The scheduler's noise levels are not those that this source was trained at",
                found=type(scheduler).__name__ if found is None else f"{found.min():.5f} at the last step",
                expected=f"alphas_cumprod of {len(known)} steps down to {known.min():.5f}",
                fix="Use the scheduler of the released pipeline, or a release with this schedule.",
            )
        return shift_sigma(self.diffusion_clock.sample(batch, generator=generator), shift or 1.0)


def require_pixel_pipeline(folder: Path) -> str:
    """Return the transformer's class of a pixel pipeline.

    Raises:
        SourceError: If the folder is no pipeline, or a latent one.
    """
    class_name = parts_of(read_index(folder)).get("transformer", ("", "no transformer"))[1]
    if class_name not in PIXEL_CLASSES:
        raise SourceError(
            f"{folder} is no pixel pipeline",
            found=class_name,
            expected="a pixel transformer of this library",
            fix="Convert it first: `l2p convert SOURCE OUT`.",
        )
    return class_name


def require_pipeline(folder: Path, family: Family) -> None:
    """Check that the pipeline of a folder is one of the family's.

    Raises:
        SourceError: If it belongs to another family: parts of several models were put together.
    """
    found = str(read_index(folder).get("_class_name"))
    if found not in family.pipeline_names:
        raise SourceError(
            "Transformer and pipeline do not belong together",
            found=f"{found} around a {family.transformer_class.__name__} in {folder}",
            expected=" or ".join(family.pipeline_names),
            fix="Download the pipeline again; do not mix parts of several models.",
        )


def stacked(items: Sequence[Encoded], key: str, model: Any, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return one tensor of all samples, on the model's device, floats in its dtype."""
    stacked_B = torch.stack([item[key] for item in items])
    return stacked_B.to(model.device, (dtype or model.dtype) if stacked_B.is_floating_point() else stacked_B.dtype)


def split(**tensors: Tensor) -> list[Encoded]:
    """Return one dict a sample of batched tensors, copied so that none keeps the whole batch alive."""
    names = tensors.keys()
    rows = zip(*(tensor.cpu().unbind() for tensor in tensors.values()), strict=True)
    return [dict(zip(names, (row.clone() for row in each), strict=True)) for each in rows]
