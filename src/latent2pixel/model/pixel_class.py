"""The pixel class of a family: the source's own class joined with what all pixel transformers share."""

import inspect
from typing import Any

from diffusers.configuration_utils import register_to_config

from latent2pixel.model.head import DetailerHead
from latent2pixel.model.lift import Lift
from latent2pixel.model.lora import LatentLoraMixin
from latent2pixel.model.pixel_transformer import IMAGE_CHANNELS, PIXEL_CONFIG, PixelTransformerMixin
from latent2pixel.model.trunk import Trunk


def pixel_transformer_class(trunk: Trunk, *, name: str, module: str, source: Any = None) -> type[PixelTransformerMixin]:
    """Make the pixel class of a family: a subclass of the source's own class.

    Args:
        trunk: The family's answers; its ``transformer_class`` is the base.
        name: Name of the new class, as written to ``config.json`` and ``model_index.json``.
        module: Module that exports it; diffusers looks the class up there when it loads a saved pipeline.
        source: Subclass of the trunk's ``transformer_class`` to build on, where one of its methods must be another.

    Returns:
        A class whose init takes the base's arguments and those of ``PIXEL_CONFIG``.
    """
    base: Any = source or trunk.transformer_class
    signature = inspect.signature(base.__init__)
    extra = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=PIXEL_CONFIG[key]) for key in PIXEL_CONFIG]

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        own = {key: kwargs.pop(key, default) for key, default in PIXEL_CONFIG.items()}
        channels, patch = tuple(own["head_channels"]), own["pixel_patch_size"]
        trunk.require_patch(patch, num_head_levels=len(channels))
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        config = {key: value for key, value in given.arguments.items() if key != "self"}
        own_config = trunk.pixel_config(config, patch // trunk.latent_patch)
        pipeline_config = trunk.pixel_config(config, trunk.codec_factor(patch))
        base.__init__(self, **own_config)
        # The base's init registered its own keys only, and channels as the trunk has them: pipelines read theirs there.
        told = {key: value for key, value in pipeline_config.items() if value != own_config[key]}
        self.register_to_config(**own, **told)
        # Z-Image's pipeline asks an attribute; transformers that count the values of a patch do so by theirs.
        for key in told.keys() & vars(self).keys() if trunk.takes_embedded else ():
            setattr(self, key, told[key])
        lift, feature_dim, in_channels = own["lift_config"], trunk.width(self), IMAGE_CHANNELS
        if lift:
            trunk.tap_tail(self, lift["token_dim"])
            sizes = {key: value for key, value in lift.items() if key != "fit"}
            self.lift = Lift(patch=patch, stem_channels=channels[-1], **sizes)
            # Latent tokens beside the hidden states, a plane of sigma beside the image.
            feature_dim, in_channels = feature_dim + lift["token_dim"], in_channels + 1
        else:
            trunk.strip_tail(self)
        self.head = DetailerHead(
            feature_dim, channels=channels, in_channels=in_channels, feature_norm=own["head_feature_norm"]
        )

    # ConfigMixin reads the accepted config keys from the signature.
    __init__.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *extra])  # type: ignore[attr-defined]
    arguments = tuple(key for key in inspect.signature(base.forward).parameters if key != "self")
    body = {
        "__init__": register_to_config(__init__),
        "__doc__": f"{trunk.transformer_class.__name__} on pixels: pixel patches in, detailer head out.",
        "__module__": module,
        "trunk": trunk,
        "_trunk_arguments": arguments,
    }
    loads_loras = (LatentLoraMixin,) if hasattr(base, "load_lora_adapter") else ()
    return type(name, (PixelTransformerMixin, *loads_loras, base), body)
