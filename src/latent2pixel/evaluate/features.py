"""Networks that turn images into features. Distances between features mean nothing without the network's name.

Shape letters: B batch, C channels, H height, W width, D feature width, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from latent2pixel.errors import CheckpointError, ConfigError
from latent2pixel.evaluate.filter_features import NAME, filter_features
from latent2pixel.io.pipeline_folder import read_json
from latent2pixel.io.safetensors_file import fingerprint, fingerprint_of_folders

INCEPTION_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
"""TorchScript of the network that FID is defined by, as StyleGAN2-ADA and clean-fid load it."""
PREPROCESSING_NAME = "preprocessor_config.json"


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A frozen network, and what a record has to say of it."""

    name: str
    """Stands in the result beside every number that the network has a part in."""
    features: Callable[[Tensor], Tensor]
    """From images (B, 3, H, W) in [-1, 1] to features (B, D), float32, on the CPU."""
    logits: Callable[[Tensor], Tensor] | None = None
    """From the same images to classes (B, K), for the inception score; None where the network knows none."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """File, fingerprint of its weights, size of its input: what another would need for the same numbers."""

    def as_json(self) -> dict[str, Any]:
        """Return name and facts as an object for a record."""
        return {"name": self.name, **self.facts}


def load_filters(_path: Path | None = None, *, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Return the fixed filters that need no download, see ``filter_features`` for what they are good for."""

    def features(image_BCHW: Tensor) -> Tensor:
        return filter_features(image_BCHW.to(device)).cpu()

    facts = {"good_for": "colours, sharpness, noise, seams; not objects"}
    return FeatureNetwork(name=NAME, features=features, facts=facts)


def load_inception(path: Path, *, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Load the Inception network of FID and IS from StyleGAN2-ADA's TorchScript file.

    The network resizes as TensorFlow 1 did, inside, from bytes: "fid" as published with that file, not clean-fid.

    Args:
        path: The file ``inception-2015-12-05.pt``.
        device: Where it runs.

    Raises:
        ConfigError: No such file; the message holds the command that downloads it.
        CheckpointError: The file is damaged or something else.
    """
    if not path.is_file():
        raise _missing(path, what="TorchScript file", fix=f"Run `curl -L --create-dirs -o {path} {INCEPTION_URL}`.")
    network = _open_torchscript(path, device=device)

    @torch.no_grad()
    def ask(image_BCHW: Tensor, **how: bool) -> Tensor:
        bytes_BCHW = ((image_BCHW.clamp(-1, 1) + 1) * 127.5).round().to(device, torch.uint8)
        return _checked(network(bytes_BCHW, **how), len(image_BCHW), path=path)

    return FeatureNetwork(
        name="inception-2015-12-05",
        features=lambda image_BCHW: ask(image_BCHW, return_features=True),
        # The file gives probabilities, without the output's bias as the first implementation had it.
        logits=lambda image_BCHW: ask(image_BCHW, no_output_bias=True).clamp(min=torch.finfo().tiny).log(),
        facts=_facts_of_file(path) | {"resize": "inside, bilinear as TensorFlow 1", "input": "bytes"},
    )


def load_exported(path: Path, *, size_px: int | None = None, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Load a network of the user's from a file of ``torch.export`` (.pt2) or TorchScript (any other ending).

    Args:
        path: The file: images (B, 3, H, W) in [-1, 1] to features (B, D). Load only files whose origin you trust.
        size_px: Width and height to which images are resized first; None gives them as they are.
        device: Where it runs.

    Raises:
        ConfigError: No such file.
        CheckpointError: The file is damaged or something else.
    """
    if not path.is_file():
        raise _missing(
            path,
            what="file of torch.export or TorchScript",
            fix=f"Export it: `torch.export.save(torch.export.export(network, (images,)), '{path}')`.",
        )
    opened = _open_exported if path.suffix == ".pt2" else _open_torchscript
    network = opened(path, device=device)

    @torch.no_grad()
    def features(image_BCHW: Tensor) -> Tensor:
        resized_BCHW = image_BCHW if size_px is None else _resized(image_BCHW, (size_px, size_px))
        try:
            output = network(resized_BCHW.to(device))
        except torch.OutOfMemoryError:  # says itself what is wrong
            raise
        except (AssertionError, RuntimeError) as error:  # the checks of shapes that are built in
            raise _unfit(path, found=f"{str(error).splitlines()[-1]}, images {tuple(resized_BCHW.shape)}") from error
        return _checked(output, len(image_BCHW), path=path)

    resize = "none" if size_px is None else f"{size_px} x {size_px} px, bicubic with antialiasing, whole image"
    return FeatureNetwork(
        name=f"exported/{path.stem}", features=features, facts=_facts_of_file(path) | {"resize": resize}
    )


def load_transformer(folder: Path, *, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Load a vision model of transformers, such as CLIP or DINOv2: its pooled output, of CLIP the projected one.

    Args:
        folder: Local folder with ``config.json``, weights and ``preprocessor_config.json``, which gives the size to
            which the shorter side is resized, the crop of the centre, and mean and standard deviation of the colours.
        device: Where it runs.

    Raises:
        ConfigError: No such folder (the message holds a download command), or the model gives no pooled features.
        CheckpointError: The folder's files are damaged or incomplete.
    """
    if not (folder / "config.json").is_file():
        raise _missing(
            folder,
            what="folder of a vision model",
            fix=f"Run `hf download facebook/dinov2-base --local-dir {folder}`, or take another vision model.",
        )
    prepare, resize = read_preprocessing(folder)
    model = load_frozen(folder).to(device)

    @torch.no_grad()
    def features(image_BCHW: Tensor) -> Tensor:
        pixels_BCHW = prepare(image_BCHW).to(device)
        projected = hasattr(model, "get_image_features")
        output = model.get_image_features(pixels_BCHW) if projected else model(pixel_values=pixels_BCHW)
        return _checked(getattr(output, "pooler_output", None), len(image_BCHW), path=folder)

    facts = {"model": type(model).__name__, "weights": fingerprint_of_folders([folder]), "resize": resize}
    return FeatureNetwork(name=f"transformers/{folder.name}", features=features, facts=facts)


LOADERS: dict[str, Callable[..., FeatureNetwork]] = {
    "filters": load_filters,
    "inception": load_inception,
    "exported": load_exported,
    "transformer": load_transformer,
}
"""Kind of network -> function of its path and the device."""


def load_frozen(folder: Path) -> Any:
    """Return the model of a local folder of transformers in float32, for inference, every weight from the file.

    Raises:
        CheckpointError: The folder's files are damaged or incomplete.
    """
    from transformers import AutoModel

    fix = "Download the model's folder again."
    try:
        model, loading = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, SafetensorError) as error:
        expected = "config.json and weights of a model that transformers knows"
        raise CheckpointError(
            f"The network {folder} cannot be read", found=str(error).splitlines()[0], expected=expected, fix=fix
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(
            f"The network {folder} lacks weights",
            found=f"{len(missing)} weights missing, such as {missing[0]}",
            expected=f"all weights of {type(model).__name__}",
            fix=fix,
        )
    return model.eval().requires_grad_(False)


def read_preprocessing(folder: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return what turns images in [-1, 1] into a vision model's input, and a description of it.

    Done in torch: transformers' own processors for newer models need torchvision.

    Raises:
        CheckpointError: The folder does not say which images the model wants.
    """
    path = folder / PREPROCESSING_NAME
    content = read_json(path) if path.is_file() else {}
    size, crop = content.get("size"), content.get("crop_size")
    shortest = size if isinstance(size, int) else int((size or {}).get("shortest_edge", 0))
    whole = None if shortest else _height_and_width(size)
    crop_px = _height_and_width(crop) if content.get("do_center_crop") else whole
    colours = [content.get("image_mean"), content.get("image_std")]
    if crop_px is None or not (shortest or whole) or None in colours:
        raise CheckpointError(
            f"The network {folder} does not say which images it wants",
            found=f"{PREPROCESSING_NAME} with size {size}, crop_size {crop}" if content else f"no {PREPROCESSING_NAME}",
            expected="sizes in pixels, image_mean and image_std",
            fix=f"Download {PREPROCESSING_NAME} of the model into its folder.",
        )
    mean_C11, std_C11 = (torch.tensor(values).view(-1, 1, 1) for values in colours)

    def prepare(image_BCHW: Tensor) -> Tensor:
        height, width = image_BCHW.shape[-2:]
        if whole is None:
            scale = shortest / min(height, width)
            target_px = (round(height * scale), round(width * scale))
        else:
            target_px = whole
        resized_BCHW = _resized(image_BCHW, target_px) / 2 + 0.5
        top, left = ((resized_BCHW.shape[axis - 2] - crop_px[axis]) // 2 for axis in (0, 1))
        cropped_BCHW = resized_BCHW[..., top : top + crop_px[0], left : left + crop_px[1]]
        return (cropped_BCHW - mean_C11.to(image_BCHW)) / std_C11.to(image_BCHW)

    first = f"shorter side {shortest} px" if whole is None else f"{whole} px"
    return prepare, f"{first}, bicubic with antialiasing, centre crop {crop_px} px"


def _height_and_width(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if not size or "height" not in size or "width" not in size:
        return None
    return size["height"], size["width"]


def _resized(image_BCHW: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Bicubic overshoots at edges; a picture has no colours beyond white and black."""
    return F.interpolate(image_BCHW, size=size_px, mode="bicubic", antialias=True).clamp(-1, 1)


def _open_exported(path: Path, *, device: torch.device | str) -> Any:
    from torch.export import load
    from torch.export.passes import move_to_device_pass

    try:
        program = load(path)
    except (OSError, ValueError, RuntimeError, BadZipFile) as error:
        raise _unreadable(path, error) from error
    # Unlike ``Module.to`` this also moves the constants that the exported code makes.
    return move_to_device_pass(program, str(device)).module()


def _open_torchscript(path: Path, *, device: torch.device | str) -> Any:
    try:
        return torch.jit.load(path, map_location=device).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(path, error) from error


def _checked(output: Any, num_images: int, *, path: Path) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != num_images:
        raise _unfit(path, found=f"{tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__)
    if not output.isfinite().all():
        raise _unfit(path, found="numbers that are not finite")
    return output.float().cpu()


def _facts_of_file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "weights": fingerprint(path)}


def _missing(path: Path, *, what: str, fix: str) -> ConfigError:
    found = "nothing that fits there" if path.exists() else "no such path"
    return ConfigError(f"The network {path} cannot be found", found=found, expected=f"a {what}", fix=fix)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"The network {path} cannot be read",
        found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        expected="a file of torch.export with ending .pt2, or TorchScript with another",
        fix="Download or export the network again.",
    )


def _unfit(path: Path, *, found: str) -> ConfigError:
    return ConfigError(
        f"The network {path} gives no features of images",
        found=found,
        expected="one row of finite numbers for each image (B, 3, H, W) in [-1, 1]",
        fix="Choose or export a network with pooled features, with dynamic batch size.",
    )
