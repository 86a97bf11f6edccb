"""``l2p convert``: a latent source becomes an untrained pixel model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from latent2pixel.convert import ConversionReport
    from latent2pixel.convert.config import InputMap
    from latent2pixel.convert.images import FitImages

LIFT_LINE = (
    "lift: R^2 of the latents from the pixels {r2_in:.2f}, of the pixels from the latents {r2_out:.2f}; "
    "noise gain {noise_gain:.3f}, noise shift times {implied_noise_shift:.2f}"
)

WITHOUT_CONVERSION = ("source", "out", "from_released", "merge", "base", "as_json")
"""What the command takes with --merge or --from-released."""

SourceArgument = Annotated[
    str,
    typer.Argument(help="Source pipeline: a folder, or owner/name on the Hub; with --from-released or --merge: OUT."),
]
PatchSizeOption = Annotated[
    int | None, typer.Option(help="Pixels per token and axis; 64 for 4K; default: the source's own.")
]
ImagesOption = Annotated[
    Path | None, typer.Option(help="Recipe lift: about 1000 images of the source, from `l2p data synthesize`.")
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(help="Recipe lift: let the source fill --images from these JSON lines of prompts first."),
]
WarmUpOption = Annotated[
    int | None,
    typer.Option(help="Recipe lift: steps in which the head learns without the trunk; 0: none; default: 1000."),
]
NoiseScaleOption = Annotated[
    float, typer.Option(help="How many times stronger the noise is beside the image; not with lift.")
]
NoiseShiftOption = Annotated[
    float | None,
    typer.Option(help="Noise shift of the scheduler, 4 as published for 4K; default: the source's; not with lift."),
]
BaseOption = Annotated[
    str | None,
    typer.Option(help="The pipeline that the published weights were made from, or the model that the run trained."),
]
InputMapOption = Annotated[
    str | None,
    typer.Option(help="Recipe lift, for comparison: procrustes, ridge, random or small_random; default: procrustes."),
]
ReleasedOption = Annotated[
    Path | None,
    typer.Option(help="Published pixel weights instead: `l2p convert OUT --from-released FILE --base SOURCE`."),
]
MergeOption = Annotated[
    Path | None,
    typer.Option(help="A run of `l2p train`, or one of its checkpoints, instead: `l2p convert OUT --merge RUN`."),
]


def convert(
    context: typer.Context,
    source: SourceArgument,
    out: Annotated[Path | None, typer.Argument(help="Folder to make.", show_default=False)] = None,
    patch_size: PatchSizeOption = None,
    recipe: Annotated[str, typer.Option(help="lift, paper or released.")] = "paper",
    head: Annotated[str, typer.Option(help="1k, 4k, or channels of each level such as 16,32,64,96.")] = "1k",
    images: ImagesOption = None,
    prompts: PromptsOption = None,
    image_size: Annotated[int, typer.Option(help="Width and height of these images, in pixels.")] = 1024,
    warm_up_steps: WarmUpOption = None,
    input_map: InputMapOption = None,
    num_blocks: Annotated[int, typer.Option(help="Blocks that train at each end of the trunk.")] = 5,
    noise_scale: NoiseScaleOption = 1.0,
    noise_shift: NoiseShiftOption = None,
    from_released: ReleasedOption = None,
    merge: MergeOption = None,
    base: BaseOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the new parts' random weights.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: the source's.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the plan and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Convert a source: codec in the VAE's place, new input projection and detailer head, everything else kept."""
    if merge is not None or from_released is not None or base is not None:
        _require_alone(context)
    if merge is not None:
        _merge_run(merge, base, from_released, folders=[source, out], as_json=as_json)
        return
    if from_released is not None or base is not None:
        _import_released(from_released, base, folders=[source, out], as_json=as_json)
        return
    out, channels = _require_out(out), parse_head(head)
    from latent2pixel import recipes
    from latent2pixel.convert import ConversionConfig
    from latent2pixel.convert import convert as run
    from latent2pixel.convert.convert import plan_folder, source_patch_px
    from latent2pixel.io.pipeline_folder import find_pipeline_folder, parse_dtype

    published = recipes.require_recipe(recipe).conversion
    is_lifted = published.initialisation == "lift"
    if not is_lifted:
        only_lift = {"--images": images, "--prompts": prompts}
        _require_absent(only_lift | {"--warm-up-steps": warm_up_steps, "--input-map": input_map}, recipe=recipe)
    warm_up_steps = published.warm_up_steps if warm_up_steps is None else warm_up_steps
    chosen_map = published.input_map if input_map is None else cast("InputMap", input_map)
    folder = find_pipeline_folder(source)
    config = ConversionConfig(
        patch_size=source_patch_px(folder) if patch_size is None else patch_size,
        head=channels,
        freezing=published.freezing,
        num_blocks=num_blocks,
        initialisation=published.initialisation,
        input_map=chosen_map,
        warm_up_steps=warm_up_steps,
        noise_scale=noise_scale,
        noise_shift=noise_shift,
        seed=seed,
    )
    # Also before images are made, which can take an hour.
    plan, _ = plan_folder(folder, config)
    if dry_run:
        typer.echo(json.dumps(plan.counts()) if as_json else plan.describe())
        return
    report = run(
        source,
        out,
        patch_size=config.patch_size,
        recipe=published.freezing,
        head=channels,
        num_blocks=num_blocks,
        fit_images=_fit_images(source, images, prompts, image_size=image_size, seed=seed) if is_lifted else None,
        input_map=chosen_map,
        warm_up_steps=warm_up_steps,
        noise_scale=noise_scale,
        noise_shift=noise_shift,
        seed=seed,
        torch_dtype=parse_dtype(dtype),
    )
    _print(report, title=f"recipe '{recipe}' with {num_blocks} + {num_blocks} blocks", as_json=as_json)


def _print(report: "ConversionReport", *, title: str, as_json: bool) -> None:
    share = report.trainable
    if as_json:
        result = {"folder": str(report.folder), "trainable_share": share.share, **report.plan.counts()}
        typer.echo(json.dumps(result | ({"lift": report.lift} if report.lift else {})))
        return
    typer.echo(report.plan.describe(), err=True)
    typer.echo(
        f"trainable under {title}: {share.num_trainable:,} of {share.num_total:,} parameters ({share.share:.1%})",
        err=True,
    )
    if report.lift:
        typer.echo(LIFT_LINE.format(**report.lift), err=True)
    typer.echo(str(report.folder))


def _import_released(file: Path | None, base: str | None, *, folders: list[str | Path | None], as_json: bool) -> None:
    from latent2pixel.convert.released import import_released
    from latent2pixel.errors import ConfigError

    given = [folder for folder in folders if folder is not None]
    if file is None or base is None or len(given) != 1:
        raise ConfigError(
            "Published weights need a file, a base and one folder to make",
            found=f"--from-released {file}, --base {base}, {len(given)} folders",
            expected="l2p convert OUT --from-released model-1k-merge.safetensors --base SOURCE",
            fix="Give all three; the base is the latent pipeline that the weights were made from.",
        )
    folder = import_released(file, base, given[0])
    typer.echo(json.dumps({"folder": str(folder)}) if as_json else str(folder))


def _merge_run(
    run: Path, base: str | None, released: Path | None, *, folders: list[str | Path | None], as_json: bool
) -> None:
    from latent2pixel.errors import ConfigError
    from latent2pixel.workflow.merge import merge

    given = [folder for folder in folders if folder is not None]
    if len(given) != 1 or released is not None:
        raise ConfigError(
            "A run is merged into one folder, and with nothing else",
            found=f"{len(given)} folders" + (f", --from-released {released}" if released else ""),
            expected="l2p convert OUT --merge RUN_OR_CHECKPOINT, and --base if the converted model has moved",
            fix="Give one folder to make.",
        )
    folder = merge(run, given[0], base=base)
    typer.echo(json.dumps({"folder": str(folder)}) if as_json else str(folder))


def _require_alone(context: typer.Context) -> None:
    """Refuse what would be ignored beside --merge and --from-released, which convert nothing."""
    from latent2pixel.errors import ConfigError

    given = [
        "--" + name.replace("_", "-")
        for name in context.params
        if name not in WITHOUT_CONVERSION and str(context.get_parameter_source(name)).endswith("COMMANDLINE")
    ]
    if given:
        raise ConfigError(
            "Nothing is converted with --merge or --from-released",
            found=", ".join(given),
            expected="a folder to make, --base and --json alone",
            fix="Leave the others out.",
        )


def _require_out(out: Path | None) -> Path:
    from latent2pixel.errors import ConfigError

    if out is None:
        raise ConfigError(
            "There is no folder to write to",
            found="one argument",
            expected="l2p convert SOURCE OUT",
            fix="Name the folder to make.",
        )
    return out


def _require_absent(options: Mapping[str, object], *, recipe: str) -> None:
    from latent2pixel.errors import ConfigError

    for flag, value in options.items():
        if value is not None:
            raise ConfigError(
                f"The recipe {recipe} is not fitted on images",
                found=f"{flag} {value}",
                expected=f"{flag} together with --recipe lift",
                fix=f"Add --recipe lift, or leave {flag} out.",
            )


def _fit_images(source: str, folder: Path | None, prompts: Path | None, *, image_size: int, seed: int) -> "FitImages":
    from latent2pixel.errors import ConfigError
    from latent2pixel.workflow.fit_images import load_fit_images, make_fit_images

    if folder is None:
        raise ConfigError(
            "The recipe lift is fitted on images of the source",
            found="no --images",
            expected="a folder of about 1000 images, as `l2p data synthesize` writes it",
            fix="Pass it with --images FOLDER and --image-size, and --prompts FILE to have it filled; or choose the "
            "recipe paper.",
        )
    if prompts is None:
        return load_fit_images(folder, image_size)
    return make_fit_images(source, prompts, folder, size_px=image_size, seed=seed)


def parse_head(text: str) -> str | tuple[int, ...]:
    """Return the name of a head, or its channels from a comma-separated list.

    Raises:
        ConfigError: The list holds something other than whole numbers.
    """
    if "," not in text and not text.isdigit():
        return text
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        from latent2pixel.errors import ConfigError

        raise ConfigError(
            "The head's channels cannot be read",
            found=repr(text),
            expected="1k, 4k, or whole numbers with commas, such as 16,32,64,96",
            fix="Write one number for each level, outermost first.",
        )
    return tuple(int(part) for part in parts)
