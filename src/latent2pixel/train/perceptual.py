"""Perceptual distances as an addition to the training loss, from networks that the user brings.

Shape letters: B batch, C channels, H height, W width, N patches, D feature width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from latent2pixel.errors import CheckpointError, ConfigError
from latent2pixel.flow import clean_from_velocity
from latent2pixel.io.pipeline_folder import read_json

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]
"""From predicted and true images (B, 3, H, W) in [-1, 1] to a distance for each, (B,), float32, 0 for equal images."""
PREPROCESSING_NAME = "preprocessor_config.json"


@dataclass(frozen=True, kw_only=True)
class Perceptual:
    """What ``transfer_loss`` needs to add a perceptual loss."""

    distance: PerceptualDistance
    weight: float
    """Factor of the perceptual loss beside the flow matching loss."""
    max_sigma: float
    """Images with more noise than this count zero."""


def perceptual_loss(
    predicted_velocity_BCHW: Tensor,
    noisy_BCHW: Tensor,
    image_BCHW: Tensor,
    sigma_B: Tensor,
    *,
    distance: PerceptualDistance,
    max_sigma: float,
) -> Tensor:
    """Return the distance between the images that a model predicts and the true ones, where there is little noise.

    The gate has a reason. With much noise many images fit what the model sees, and the prediction that is right on
    average, and that a sampler needs, is their mean: blurred. A perceptual distance calls a blurred image far from
    every sharp one, so it would pull the prediction towards a guess, away from the mean.

    Args:
        predicted_velocity_BCHW: The model's velocity towards noise.
        noisy_BCHW: What the model saw.
        image_BCHW: The true images in [-1, 1].
        sigma_B: Noise levels in [0, 1].
        distance: Distance of each predicted image, which may leave [-1, 1], from its true one.
        max_sigma: Images with ``sigma > max_sigma`` count zero.

    Returns:
        Sum of the distances over the size of the whole batch, a scalar: how many images pass the gate does not change
        the weight of one. When none passes, ``distance`` is not called.

    Source:
        PixelGen (arXiv 2602.02493): LPIPS and DINO losses on the predicted image, at lower noise levels only.
    """
    passes_B = sigma_B <= max_sigma
    if not passes_B.any():
        return predicted_velocity_BCHW.new_zeros(())
    clean_BCHW = clean_from_velocity(noisy_BCHW, predicted_velocity_BCHW, sigma_B)
    return distance(clean_BCHW[passes_B], image_BCHW[passes_B]).sum() / len(sigma_B)


class PatchFeatureDistance(nn.Module):
    """One minus the cosine similarity of a vision transformer's patch features, averaged over the patches.

    The network is frozen: a gradient reaches the predicted image alone.
    """

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, model: Any, *, size_px: tuple[int, int], mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.size_px = size_px
        self.register_buffer("mean_C11", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std_C11", torch.tensor(std).view(-1, 1, 1))

    def forward(self, predicted_BCHW: Tensor, image_BCHW: Tensor) -> Tensor:
        """Return the distance of each predicted image from its true one, (B,), in [0, 2]."""
        with torch.no_grad():
            target_BND = self.features(image_BCHW)
        return 1 - F.cosine_similarity(self.features(predicted_BCHW), target_BND, dim=-1).mean(dim=-1)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return the features of the patches of images in [-1, 1], (B, N, D), float32.

        Raises:
            ConfigError: The model gives no such features.
        """
        resized_BCHW = F.interpolate(image_BCHW / 2 + 0.5, size=self.size_px, mode="bicubic", antialias=True)
        output = self.model(pixel_values=(resized_BCHW - self.mean_C11) / self.std_C11)
        hidden_BTD = getattr(output, "last_hidden_state", None)
        num_patches = (self.size_px[0] // self.model.config.patch_size) * (
            self.size_px[1] // self.model.config.patch_size
        )
        if hidden_BTD is None or hidden_BTD.ndim != 3 or hidden_BTD.shape[1] < num_patches:
            shape = "no last_hidden_state" if hidden_BTD is None else f"features of shape {tuple(hidden_BTD.shape)}"
            raise _no_patch_features(self.model, found=f"{shape} for {num_patches} patches")
        # The tokens of the class and of the registers come first.
        return hidden_BTD[:, -num_patches:].float()


def load_dino(folder: Path, *, device: torch.device | str = "cpu") -> PatchFeatureDistance:
    """Load a vision transformer of transformers, such as DINOv2 or DINOv3, as a distance.

    Args:
        folder: Local folder with ``config.json``, weights and ``preprocessor_config.json``, which gives the size that
            the model wants, to which the whole image is resized, and the mean and standard deviation of its colours.
        device: Where the network goes.

    Raises:
        ConfigError: No such folder, or the model gives no features of patches.
        CheckpointError: The folder's files are damaged, incomplete or leave something open.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"The perceptual model {folder} cannot be found",
            found="no config.json there" if folder.is_dir() else "no such folder",
            expected=f"a local folder with config.json, weights and {PREPROCESSING_NAME}",
            fix="Download the model, then set perceptual_model to its folder.",
        )
    size_px, mean, std = _preprocessing_of(folder)
    model = _load_transformer(folder)
    if model.main_input_name != "pixel_values" or not isinstance(getattr(model.config, "patch_size", None), int):
        raise _no_patch_features(model, found="no pixel_values as input, or no patch_size in its config")
    distance = PatchFeatureDistance(model, size_px=size_px, mean=mean, std=std).to(device)
    # A model that does not fit is refused here, not at the first image that passes the gate.
    with torch.no_grad():
        distance.features(torch.zeros(1, 3, *size_px, device=device))
    return distance


def load_exported(path: Path, *, device: torch.device | str = "cpu") -> PerceptualDistance:
    """Load a network that was exported with ``torch.export`` and maps two images to their distance.

    LPIPS comes this way (the package lpips needs torchvision, which CPU-only machines cannot have), exported elsewhere
    and once. The two example images must be two tensors; given the same one twice, torch exports one input::

        examples, size = (torch.rand(2, 3, 256, 256), torch.rand(2, 3, 256, 256)), dict.fromkeys((0, 2, 3), Dim.AUTO)
        save(export(lpips.LPIPS(net="alex").eval(), examples, dynamic_shapes=(size, size)), "lpips.pt2")

    with ``from torch.export import Dim, export, save``.

    Args:
        path: The ``.pt2`` file: images (B, 3, H, W) in [-1, 1], predicted and true, to one number each. Load only files
            whose origin you trust.
        device: Where the network goes.

    Raises:
        ConfigError: No such file.
        CheckpointError: The file is damaged or holds something else.
    """
    from torch.export import load
    from torch.export.passes import move_to_device_pass

    if not path.is_file():
        raise ConfigError(
            f"The perceptual model {path} cannot be found",
            found="a folder" if path.is_dir() else "no such file",
            expected="a file that torch.export.save wrote",
            fix="Export the network, then set perceptual_model to the file.",
        )
    try:
        program = load(path)
    except (OSError, ValueError, RuntimeError, BadZipFile) as error:
        raise CheckpointError(
            f"The perceptual model {path} cannot be read",
            found=str(error).splitlines()[0],
            expected="a file that torch.export.save wrote with this version of torch",
            fix="Export the network again; TorchScript files cannot be read.",
        ) from error
    # Unlike ``Module.to`` this also moves the constants that the exported code makes.
    network = move_to_device_pass(program, str(device)).module().requires_grad_(False)

    def distance(predicted_BCHW: Tensor, image_BCHW: Tensor) -> Tensor:
        try:
            distance_B = network(predicted_BCHW, image_BCHW)
        except AssertionError as error:  # the checks of shapes that torch.export builds in
            raise _unfit(path, found=f"{error}, with images of shape {tuple(image_BCHW.shape)}") from error
        _require_one_number_each(distance_B, predicted_BCHW, path=path)
        return distance_B.flatten().float()

    return distance


LOADERS: dict[str, Callable[..., PerceptualDistance]] = {"dino": load_dino, "exported": load_exported}
"""Setting ``perceptual`` of a run -> function of the path and the device."""


def _preprocessing_of(folder: Path) -> tuple[tuple[int, int], list[float], list[float]]:
    """Return (height, width) in pixels, and mean and standard deviation of the colours in [0, 1]."""
    path = folder / PREPROCESSING_NAME
    # Read as a file: transformers' processors of the newer models need torchvision to be constructed.
    content = read_json(path) if path.is_file() else {}
    size = content.get("crop_size" if content.get("do_center_crop") else "size")
    height, width = (size, size) if isinstance(size, int) else map((size or {}).get, ("height", "width"))
    mean, std = content.get("image_mean"), content.get("image_std")
    if height is None or width is None or mean is None or std is None:
        raise CheckpointError(
            f"The perceptual model {folder} does not say which images it wants",
            found=f"{PREPROCESSING_NAME} with size {size}, image_mean {mean}, image_std {std}"
            if content
            else f"no {PREPROCESSING_NAME}",
            expected="a size with height and width in pixels, image_mean and image_std",
            fix=f"Download {PREPROCESSING_NAME} of the model into its folder.",
        )
    return (height, width), mean, std


def _load_transformer(folder: Path) -> Any:
    """Return the model of a local folder in float32, every weight from the file."""
    from transformers import AutoModel

    fix = "Download the model's folder again."
    try:
        model, loading = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"The perceptual model {folder} cannot be read",
            found=str(error).splitlines()[0],
            expected="config.json and weights of a model that transformers knows",
            fix=fix,
        ) from error
    # Checkpoints of classifiers lack the pooler, which no feature of a patch passes.
    if missing := sorted(key for key in loading["missing_keys"] if not key.startswith("pooler.")):
        raise CheckpointError(
            f"The perceptual model {folder} lacks weights",
            found=f"{len(missing)} weights missing, such as {missing[0]}",
            expected=f"all weights of {type(model).__name__}",
            fix=fix,
        )
    return model


def _require_one_number_each(distance_B: Any, predicted_BCHW: Tensor, *, path: Path) -> None:
    num_images = len(predicted_BCHW)
    if not isinstance(distance_B, Tensor) or distance_B.ndim == 0 or distance_B.shape.numel() != num_images:
        what = tuple(distance_B.shape) if isinstance(distance_B, Tensor) else type(distance_B).__name__
        raise _unfit(path, found=f"{what} for {num_images} images")
    if torch.is_grad_enabled() and predicted_BCHW.requires_grad and not distance_B.requires_grad:
        raise _unfit(path, found="a distance that does not depend on the first image")


def _unfit(path: Path, *, found: str) -> ConfigError:
    return ConfigError(
        f"The perceptual model {path} is no distance between the run's images",
        found=found,
        expected="one number for each pair of images (B, 3, H, W), with a gradient to the first",
        fix="Export it with two different example images and dynamic sizes, see `load_exported`.",
    )


def _no_patch_features(model: Any, *, found: str) -> ConfigError:
    return ConfigError(
        "The perceptual model gives no features of patches",
        found=f"{type(model).__name__}, {found}",
        expected="a vision transformer: pixel_values in, last_hidden_state (B, tokens, width) out",
        fix="Set perceptual_model to the folder of such a model, for instance of DINOv2.",
    )
