"""The model card of a converted pipeline, written from its record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

CARD_NAME = "README.md"
"""Where the Hugging Face Hub looks for a model card."""
FIGURES = {
    "r2_in": "R^2 in: share of the latents' variance that the lifted pixels explain",
    "r2_least_squares": "the most that any linear map of a patch explains, on the patches of the fit",
    "r2_out": "R^2 out: share of the pixels' variance that the linear decode of the latents explains",
    "scale": "scale s: size of the lifted pixels over that of the latents",
    "implied_noise_shift": "factor on the scheduler's noise shift, which is s",
    "noise_gain": "noise gain: factor on the variance of white noise, 1 / s^2",
    "fitted_noise_gain": "noise gain of the fitted map before it was made orthonormal",
    "least_squares_noise_gain": "noise gain of the unconstrained least squares",
    "num_patches": "patches behind the fit",
}
"""Figure of the fit (``LiftFit.figures``) -> what it is, in the order of the table."""
CHANNELS = ("red", "green", "blue")


def model_card(record: Mapping[str, Any], *, base_model: str | None = None) -> str:
    """Return the model card of a conversion, in Markdown with YAML front matter.

    Args:
        record: Content of ``conversion.json``.
        base_model: The source's id on the Hub, if it has one.
    """
    settings, lift = record["settings"], record.get("lift")
    # Only the folder's name: the rest of the path belongs to the machine, not to a published card.
    source = base_model or Path(record["source"]).name
    front = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=base_model,
        tags=["latent2pixel", "pixel-space", "lift" if lift else settings["recipe"]],
    ).to_yaml()
    parts = [
        f"---\n{front}\n---",
        f"# {source} in pixel space",
        f"A text-to-image model that works on pixels, without a VAE, converted by latent2pixel from the latent model "
        f"`{source}`. " + _start(settings, lifted=lift is not None),
        "## How it was made",
        _table(_making(record)),
        *([] if lift is None else ["## How well the lift fits", _fit(lift)]),
        "## Use",
        _USE,
        "## Licence",
        "The weights are made from the source's and carry the source's licence.",
    ]
    return "\n\n".join(parts) + "\n"


_USE = """```python
import latent2pixel  # registers the pixel classes
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("THIS FOLDER OR ITS ID")
```"""


def _start(settings: Mapping[str, Any], *, lifted: bool) -> str:
    """Return how the new parts start, in a sentence or two."""
    if not lifted:
        return "The new parts are random: it has to be trained (`l2p train`) before it makes pictures."
    if settings["input_map"] != "procrustes":
        return f"Recipe `lift` with the input map `{settings['input_map']}`, which is meant for comparison only."
    return (
        "Recipe `lift`: a matrix fitted on the source's images turns pixels into latents, so that the source's "
        "transformer serves as it is."
    )


def _making(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decided the result, in words -> value."""
    settings, versions = record["settings"], record["versions"]
    num_blocks = settings["num_blocks"]
    making = {
        "start": "closed form (lift)" if "lift" in record else "random",
        "parameters that train afterwards": f"preset `{settings['recipe']}`, {num_blocks} + {num_blocks} blocks",
        "patch size": f"{settings['patch_size']} px",
        "detailer head's channels": ", ".join(map(str, settings["head_channels"])),
        "seed": settings["seed"],
    }
    if "noise_shift" in settings:
        making["noise shift"] = f"{settings['noise_shift']:g}"
    if "lift" in record:
        making |= {
            "input map": settings["input_map"],
            "Wiener filter": "yes" if settings["wiener"] else "no",
            "steps in which the head learnt without the transformer": settings["warm_up_steps"],
        }
    making["versions"] = ", ".join(
        [f"latent2pixel {record['latent2pixel']}", *(f"{name} {version}" for name, version in versions.items())]
    )
    return making


def _fit(lift: Mapping[str, Any]) -> str:
    """Return the figures of the fit, and what the linear decode leaves in each colour channel."""
    figures = {text: _number(lift[key]) for key, text in FIGURES.items()}
    channels = [
        f"| {name} | {_number(each['variance'])} | {_number(each['share'])} |"
        for name, each in zip(CHANNELS, lift["residual_by_channel"], strict=True)
    ]
    left = ["| channel | variance left by the linear decode | share of the channel's variance |", "| --- | --- | --- |"]
    return _table(figures) + "\n\n" + "\n".join([*left, *channels])


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(["| what | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
