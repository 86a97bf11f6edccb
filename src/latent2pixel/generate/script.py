"""What a stock pipeline asks of its network for a picture, and what it makes of the answers, found by rehearsal.

Every pipeline has its own loop: clocks, shifts, guidance, signs. Where the image has to stay on the disk none of them
can run, and repeating them all here would be to write diffusers again. So the pipeline runs as it is, on three values a
latent cell instead of all the pixels of a patch, and random numbers stand in for its network's answers. What it asked
is recorded; how each answer counts in the next image is found by least squares. That describes the loop completely
where the next image is a weighted sum of this one and of this step's answers, as with every Euler step under plain
guidance. Where it is not, the fit leaves something over, and the pipeline is refused.

Shape letters: B batch, Z values of a latent cell, H and W cells, N values of an image, K answers of a step.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor
from torch.nn import functional

from latent2pixel.errors import ConfigError
from latent2pixel.families import family_of
from latent2pixel.model.codec import PixelVAE
from latent2pixel.model.pixel_transformer import IMAGE_CHANNELS, PixelTransformerOutput

FLOAT32_MISFIT = 1e-5
"""Largest share of an image that the weighted sum may leave over. Rounding leaves 1e-7; thresholds, norms and noise of
each step leave more than 1e-2."""
START_SPREAD = 0.1
"""Largest distance from 1 of the standard deviation of the noise that a pipeline begins with: that of 500 values varies
by 0.03."""
NOISE_SEED, ANSWER_SEED = 0, 1
"""Of the rehearsals; any two."""
GAINS = (1.0, 3.0)
"""Size of the last answer of a step in the two rehearsals: a rule that depends on sizes has other weights in each."""


@dataclass(frozen=True, kw_only=True)
class NetworkCall:
    """One call of the network, every sample of which is the same image."""

    conditioning: Mapping[str, Any]
    """All arguments but the sample."""
    weights: tuple[float, ...]
    """How each sample's answer counts in the next image."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """From one image to the next: ``keep * image + sum(weight * answer)``."""

    keep: float
    """Weight of the image itself."""
    calls: tuple[NetworkCall, ...]
    """What the network is asked about it."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """How a stock pipeline makes one picture."""

    steps: tuple[Step, ...]
    noise_fold: int
    """Cells an axis of what the pipeline draws its noise for: 1 for a latent map, 2 for one that is folded into tokens
    of 2 x 2 cells before. Where it draws in another order, 1: the same seed then makes another picture."""


def read_script(pipe: Any, **call: Any) -> Script:
    """Return how a stock pipeline makes one picture.

    Args:
        pipe: Pixel pipeline; it is as it was afterwards.
        **call: As ``Family.images``, for one prompt.

    Raises:
        ConfigError: The pipeline does something else than weighted sums, or begins with something else than noise.
    """
    family = family_of(pipe.transformer)
    if not family.takes_embedded:
        raise _refused(pipe, f"a transformer of family {family.name}, which counts the values of a patch itself")
    rehearsal, again = (_rehearse(pipe, call, last_gain=gain) for gain in GAINS)
    steps, misfit = _fitted(pipe, rehearsal), _misfit(pipe)
    for number, (step, other) in enumerate(zip(steps, _fitted(pipe, again), strict=True), start=1):
        weights, others = ([each.keep, *_weights(each)] for each in (step, other))
        if not torch.allclose(torch.tensor(weights), torch.tensor(others), rtol=misfit, atol=10 * misfit):
            raise _refused(pipe, f"weights that depend on the answers in step {number}: {weights} or {others}")
    return Script(
        steps=steps, noise_fold=_noise_fold(rehearsal.images[0], latent_patch=pipe.transformer.trunk.latent_patch)
    )


@dataclass
class _Rehearsal:
    """Answers for the network, and keeps what was asked."""

    generator: torch.Generator
    last_gain: float
    images: list[Tensor] = field(default_factory=list)
    """Every image that was asked about, and the last one, (Z, H, W)."""
    asked: list[list[tuple[dict[str, Any], Tensor]]] = field(default_factory=list)
    """For each image, the calls about it: all other arguments, and the answers (B, Z, H, W)."""
    shows_one_image: bool = True
    """Whether all samples of each call were the same image."""

    def answer(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Stand in for ``PixelTransformerMixin.forward``."""
        trunk = model.trunk
        call = dict(zip(model._trunk_arguments, args, strict=False), **kwargs)
        return_dict = call.pop("return_dict", True)
        map_BZHW = trunk.map_of(call)
        conditioning = {key: value for key, value in call.items() if key != trunk.sample_argument}
        if not self.images or not torch.equal(map_BZHW[0], self.images[-1]):
            self.images.append(map_BZHW[0].clone())
            self.asked.append([])
        # Answers are drawn whatever is shown, so the fit would not notice.
        self.shows_one_image &= bool((map_BZHW == map_BZHW[:1]).all())
        answers_BZHW = torch.randn(map_BZHW.shape, generator=self.generator).to(map_BZHW.device)
        answers_BZHW[-1] *= self.last_gain
        self.asked[-1].append((_shared(conditioning, self._step_before()), answers_BZHW))
        sample = trunk.output(answers_BZHW, call)
        return PixelTransformerOutput(sample=sample) if return_dict else (sample,)

    def _step_before(self) -> Mapping[str, Any]:
        """Return the arguments of the same call a step ago."""
        place = len(self.asked[-1])
        return self.asked[-2][place][0] if len(self.asked) > 1 and place < len(self.asked[-2]) else {}

    def decode(self, folded_BZHW: Tensor) -> None:
        """Take the finished image."""
        self.images.append(folded_BZHW.reshape(*folded_BZHW.shape[:2], *folded_BZHW.shape[-2:])[0].clone())


class _RehearsalVAE(PixelVAE):
    """The pipeline's codec for one pixel a latent cell: the geometry of the true one, and nothing to decode."""

    def __init__(self, codec: PixelVAE, decoded: Callable[[Tensor], None]) -> None:
        super().__init__(factor=codec.config["factor"])
        self._decoded = decoded

    @property
    def config(self) -> FrozenDict:
        """As the true codec's, with three values a cell."""
        return FrozenDict(
            {
                **super().config,
                "latent_channels": IMAGE_CHANNELS,
                "z_dim": IMAGE_CHANNELS,
                "latents_mean": [0.0] * IMAGE_CHANNELS,
                "latents_std": [1.0] * IMAGE_CHANNELS,
            }
        )

    def decode(
        self, folded_BZHW: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Hand the image on, and return an empty one."""
        del generator
        self._decoded(folded_BZHW)
        nothing = torch.zeros_like(folded_BZHW)
        return DecoderOutput(sample=nothing) if return_dict else (nothing,)


def _rehearse(pipe: Any, call: Mapping[str, Any], *, last_gain: float) -> _Rehearsal:
    rehearsal = _Rehearsal(torch.Generator().manual_seed(ANSWER_SEED), last_gain)
    family, codec = family_of(pipe.transformer), pipe.vae
    shown = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(disable=True)
    with _one_pixel_a_cell(pipe.transformer, rehearsal.answer):
        pipe.vae = _RehearsalVAE(codec, rehearsal.decode).to(codec.device)
        try:
            # Copies: some pipelines write the chat template into the list of prompts.
            given: dict[str, Any] = {
                key: list(value) if isinstance(value, list) else value for key, value in call.items()
            }
            family.images(pipe, **given, generator=torch.Generator().manual_seed(NOISE_SEED))
        finally:
            pipe.vae, pipe._progress_bar_config = codec, shown
    return rehearsal


def _noise_fold(image_ZHW: Tensor, *, latent_patch: int) -> int:
    """Return how the cells of an image were folded when its noise was drawn; see ``Script``."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    # Some draw in the dtype of their prompts: the same numbers, rounded.
    drawn_N = torch.randn(image_ZHW.numel(), generator=generator).to(image_ZHW.dtype).float()
    folded = functional.pixel_unshuffle(image_ZHW[None].float().cpu(), latent_patch)
    return latent_patch if torch.equal(folded.flatten(), drawn_N) else 1


@contextmanager
def _one_pixel_a_cell(model: Any, answer: Callable[..., Any]) -> Iterator[None]:
    """Let a pixel transformer count three values a latent cell, and something else answer for it."""
    told = {key: value for key, value in model.config.items() if not key.startswith("_")}
    small = {key: value for key, value in model.trunk.pixel_config(told, 1).items() if model.config.get(key) != value}
    whole, attributes = model._internal_dict, {key: getattr(model, key) for key in small if key in vars(model)}
    instance_forward = vars(model).get("forward")  # offloading puts its own there
    model._internal_dict = FrozenDict({**whole, **small})
    for key in attributes:
        setattr(model, key, small[key])
    model.forward = partial(answer, model)
    try:
        yield
    finally:
        del model.forward
        if instance_forward is not None:
            model.forward = instance_forward
        model._internal_dict = whole
        for key, value in attributes.items():
            setattr(model, key, value)


def _fitted(pipe: Any, rehearsal: _Rehearsal) -> tuple[Step, ...]:
    """Return the steps that explain every image of a rehearsal by the one before and the answers about it."""
    images, asked = rehearsal.images, rehearsal.asked
    if not rehearsal.shows_one_image:
        raise _refused(pipe, "calls of the network with several images")
    if len(images) != len(asked) + 1:
        raise _refused(pipe, f"{len(asked)} images that the network was asked about, and {len(images)} in all")
    if abs(float(images[0].float().std()) - 1) > START_SPREAD:
        raise _refused(pipe, f"a first image of standard deviation {float(images[0].float().std()):.2f}")
    steps = []
    for number, ((image, after), calls) in enumerate(zip(pairwise(images), asked, strict=True), start=1):
        answers = [answer_ZHW for _, answers_BZHW in calls for answer_ZHW in answers_BZHW]
        known_NK = torch.stack([each.double().flatten() for each in (image, *answers)], dim=1).cpu()
        sought_N1 = after.double().flatten()[:, None].cpu()
        weights_K1 = torch.linalg.lstsq(known_NK, sought_N1).solution
        misfit = float((sought_N1 - known_NK @ weights_K1).norm() / sought_N1.norm())
        if misfit > _misfit(pipe):
            raise _refused(pipe, f"an image that is no weighted sum: {misfit:.2g} of it is left over in step {number}")
        keep, *weights = weights_K1.flatten().tolist()
        places = iter(weights)
        steps.append(
            Step(
                keep=keep,
                calls=tuple(
                    NetworkCall(conditioning=conditioning, weights=tuple(next(places) for _ in answers_BZHW))
                    for conditioning, answers_BZHW in calls
                ),
            )
        )
    return tuple(steps)


def _weights(step: Step) -> list[float]:
    return [weight for call in step.calls for weight in call.weights]


def _misfit(pipe: Any) -> float:
    """Return how much may be left over: pipelines round the image to the network's dtype before they show it."""
    return max(FLOAT32_MISFIT, torch.finfo(pipe.transformer.dtype).eps)


def _shared(value: Any, before: Any) -> Any:
    """Return arguments with the tensors of an earlier call where they are equal, so that each is kept once."""
    if isinstance(value, Tensor):
        same = isinstance(before, Tensor) and before.dtype == value.dtype and torch.equal(before, value)
        return before if same else value
    if isinstance(value, dict):
        return {
            key: _shared(each, before.get(key) if isinstance(before, dict) else None) for key, each in value.items()
        }
    if isinstance(value, list) and isinstance(before, list) and len(value) == len(before):
        return [_shared(each, other) for each, other in zip(value, before, strict=True)]
    return value


def _refused(pipe: Any, found: str) -> ConfigError:
    return ConfigError(
        f"{type(pipe).__name__} cannot sample in tiles",
        found=f"{type(pipe.scheduler).__name__}; {found}",
        expected="a loop in which the next image is a weighted sum of this one and of what the network says of it, as "
        "with FlowMatchEulerDiscreteScheduler and plain guidance",
        fix="Choose such a scheduler, another guidance, or a smaller image: without --memory it is made whole.",
    )
