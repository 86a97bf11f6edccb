"""The patch ladder: a pixel model with patches twice as large, a quarter of the tokens and the same trunk.

Shape letters: w width of the trunk's tokens, D values of a pixel patch, d values of a latent token. A number behind a
letter counts sub-patches: D4 is a patch of twice the size, which holds four of the old ones.

Source:
    Derived for this project: the input projection becomes ``W' = 1/2 [W W W W]``. White noise stays white; the image's
    part is twice the projection of the mean sub-patch. So noise weighs half as much against the image, and the
    scheduler's noise shift doubles.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from torch.nn import functional

import latent2pixel
from latent2pixel.convert.convert import with_parts
from latent2pixel.convert.record import holds_conversion
from latent2pixel.errors import SourceError
from latent2pixel.families import PIXEL_CLASSES, family_of
from latent2pixel.families.noise_shift import MAX_TOKENS
from latent2pixel.io.new_folder import new_folder
from latent2pixel.io.pipeline_folder import find_pipeline_folder, open_pipeline, parts_of, read_index, read_json
from latent2pixel.io.safetensors_file import fingerprint_of_folders
from latent2pixel.model.codec import PixelVAE
from latent2pixel.model.pixel_transformer import PIXEL_CONFIG, PixelTransformerMixin
from latent2pixel.model.tokens import places_in_patch

LADDER_RECORD = "ladder.json"
"""Stands beside ``model_index.json`` and says which model's patch was doubled."""
GROWTH = 2
"""A rung's patch over the one before it, and by how much its sub-patches average the noise down."""


@dataclass(frozen=True, kw_only=True)
class LadderReport:
    """What a rung of the ladder made."""

    folder: Path
    """Where the new pixel pipeline lies."""
    patch_size: int
    """Its pixels per token and axis."""
    noise_shift: float
    """Its scheduler's noise shift; of images of ``MAX_TOKENS`` tokens, where it depends on their number."""
    already_there: bool
    """True if the folder held this very model before, so nothing was written."""


def climb(model: str | Path, out: str | Path) -> LadderReport:
    """Make the pixel pipeline folder of twice the patch; the same call again returns at once.

    Args:
        model: Pixel pipeline, converted or trained: a folder, or ``owner/name`` on the Hub.
        out: Folder to make.

    Raises:
        SourceError: If the model cannot be found, is no pixel pipeline, or cannot be doubled (``double_patch``).
        CheckpointError: If its weights are truncated or do not fit its configuration.
        OutputFolderError: If ``out`` holds something else, cannot be written, or the disk is full.
    """
    folder, target = find_pipeline_folder(model), Path(out)
    parts = parts_of(read_index(folder))
    _require_pixel(parts.get("transformer", ("", "no transformer"))[1])
    settings = {"model_fingerprint": fingerprint_of_folders(folder / name for name in parts)}
    already_there = holds_conversion(target, settings, record_name=LADDER_RECORD)
    if not already_there:
        pipe = double_patch(open_pipeline(folder))
        record = {
            "model": str(model),
            "settings": settings,
            "latent2pixel": latent2pixel.__version__,
            "patch_size": pipe.transformer.config["pixel_patch_size"],
            "noise_shift": family_of(pipe.transformer).shift(
                pipe.scheduler, MAX_TOKENS * pipe.transformer.pipeline_tokens((1, 1))
            ),
        }
        with new_folder(target) as partial:
            pipe.save_pretrained(partial)
            (partial / LADDER_RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    stored = read_json(target / LADDER_RECORD)
    return LadderReport(
        folder=target,
        patch_size=stored["patch_size"],
        noise_shift=stored["noise_shift"],
        already_there=already_there,
    )


def double_patch(pipe: Any) -> Any:
    """Return the pixel pipeline of twice the patch, of the same stock class; kept weights are shared, not copied.

    Args:
        pipe: Pixel pipeline; stays usable. Training the new one changes its weights too.

    Raises:
        SourceError: If it is no pixel pipeline, its lift has a Wiener filter, its scheduler has no noise shift, or its
            clock hangs on a shift that is not recorded.
    """
    model = pipe.components.get("transformer")
    if not isinstance(model, PixelTransformerMixin):
        raise _no_pixel_pipeline(type(pipe).__name__ if model is None else type(model).__name__)
    family = family_of(model)
    _require_clock(model)
    # The scheduler first: it is what a user may have replaced, and it takes no time to refuse.
    token_factor = (model.codec_factor / family.codec_factor(GROWTH * model.config["pixel_patch_size"])) ** 2
    scheduler = family.with_shift(pipe.scheduler, float(GROWTH), token_factor=token_factor)
    doubled = _doubled_transformer(model)
    codec = PixelVAE(doubled.codec_factor, noise_scale=pipe.vae.config["noise_scale"]).to(pipe.vae.device)
    return with_parts(pipe, {"vae": codec, "transformer": doubled, "scheduler": scheduler})


def _doubled_transformer(model: PixelTransformerMixin) -> PixelTransformerMixin:
    """Return the model with patches twice as large."""
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    own = {key: config.pop(key) for key in PIXEL_CONFIG}
    own["pixel_patch_size"] *= GROWTH
    if own["lift_config"]:
        _require_no_wiener(own["lift_config"])
        # A' = 1/2 [A; A; A; A] gives A'^T x = 1/2 (4 s z + 4 c) = 2 s z + 2 c, z the mean token of the sub-patches.
        # The fit's figures are those of the smaller patch.
        own["lift_config"] = {**own["lift_config"], "scale": GROWTH * own["lift_config"]["scale"], "fit": {}}
    factor = model.trunk.codec_factor(own["pixel_patch_size"])
    with init_empty_weights(include_buffers=False):
        doubled = type(model)(**model.trunk.pixel_config(config, factor), **own)
    state: dict[str, Tensor] = model.state_dict()
    doubled.load_state_dict(state | _replicated(state, model, doubled), strict=True, assign=True)
    return doubled.train(model.training)


@torch.no_grad()
def _replicated(
    state: dict[str, Tensor], model: PixelTransformerMixin, doubled: PixelTransformerMixin
) -> dict[str, Tensor]:
    """Return the tensors that change. All factors are powers of two, so they are exact in every float dtype.

    The stem stays, as the model averages its coarse features over a token: its estimate is the mean misfit of the four
    sub-patches. The mean token is that of the sub-patches. Gain and misfit stay too, not fitted anew: the stem sees the
    same pixels at the same noise level, and what it misses of a mean is at most what it misses on average.
    """
    place_D4 = _place_in_sub_patch(model.config["pixel_patch_size"])
    # Each projection has its columns in the order of its own trunk: back to pixel_unshuffle, replicate, forth again.
    column_D4 = model.patch_order().argsort()[place_D4][doubled.patch_order()]
    changed = {
        f"{name}.weight": state[f"{name}.weight"][:, column_D4] / GROWTH for name in model.trunk.input_projections
    }
    if model.config["lift_config"]:
        changed |= {
            "lift.basis_Dd": state["lift.basis_Dd"][place_D4] / GROWTH,
            "lift.offset_d": GROWTH * state["lift.offset_d"],
            "lift.decode.weight": state["lift.decode.weight"][place_D4],
            "lift.decode.bias": state["lift.decode.bias"][place_D4],
        }
    return changed


def _place_in_sub_patch(patch: int) -> Tensor:
    """Return, for each value of the doubled patch, its place in its sub-patch, both in the order of pixel_unshuffle."""
    return functional.pixel_unshuffle(places_in_patch(patch).repeat(1, 1, GROWTH, GROWTH), GROWTH * patch).flatten()


def _require_pixel(class_name: str) -> None:
    if class_name not in PIXEL_CLASSES:
        raise _no_pixel_pipeline(class_name)


def _no_pixel_pipeline(found: str) -> SourceError:
    return SourceError(
        "The patch of a pixel model can be doubled, and this is none",
        found=found,
        expected="a pixel transformer of this library",
        fix="Convert the source first (`l2p convert SOURCE OUT`); there --patch-size chooses the first patch.",
    )


def _require_clock(model: PixelTransformerMixin) -> None:
    """Check that the model can tell its noise level after the scheduler's shift has grown: a lift's scale says so."""
    if model.trunk.clock_shift(MAX_TOKENS) is not None and not model.config["lift_config"]:
        raise SourceError(
            "The patch of this model cannot be doubled: its clock hangs on a noise shift that only a lift records",
            found="no lift_config",
            expected="a model with a lift",
            fix="Convert the source with a lift, or with the larger patch at once.",
        )


def _require_no_wiener(lift_config: dict[str, Any]) -> None:
    if lift_config["wiener"]:
        raise SourceError(
            "The patch of a model with a Wiener filter cannot be doubled",
            found="lift_config with wiener true",
            expected="a lift without the filter: how residuals of neighbouring patches vary together is not known",
            fix="Convert the source with wiener=False, or with the larger patch at once.",
        )
