"""Tiny pixel pipelines, and one picture of each by the stock pipeline and in tiles."""

from types import SimpleNamespace

import torch
from tests.tiny import PROMPTS, noise, patch_px, tiny_lift, tiny_pixel_pipeline, tiny_source, whole_grid
from torch.nn import functional

from latent2pixel.families import load_family
from latent2pixel.generate.script import read_script
from latent2pixel.generate.tiled import UnfinishedImage, follow_script, sample_in_tiles

GRID = (4, 6)
STEPS = 3


def pipeline(name, *, lifted=False, **options):
    """Return a pixel pipeline every part of which does something."""
    factor = options.get("patch_size", patch_px(name)) // patch_px(name)
    pipe = tiny_pixel_pipeline(name, **({"lift": tiny_lift(name).spread(factor)} if lifted else {}), **options)
    if lifted:  # head and stem start silent
        with torch.no_grad():
            for parameter in (*pipe.transformer.head.parameters(), *pipe.transformer.lift.stem.parameters()):
                parameter.copy_(0.1 * noise(*parameter.shape))
    return pipe


def call_of(name, pipe, *, guided, grid=GRID):
    """Return what the stock pipeline is called with for one picture."""
    module, patch = tiny_source(name), pipe.transformer.config["pixel_patch_size"]
    size = dict(zip(("height", "width"), (places * patch for places in whole_grid(name, grid)), strict=True))
    adapt = getattr(module, "adapt", lambda pipe, call: call)
    options = module.GUIDED if guided else module.UNGUIDED
    call = adapt(pipe, {"prompt": PROMPTS[:1], **size, "num_inference_steps": STEPS, **options})
    if isinstance(call.get("negative_prompt"), list):
        call["negative_prompt"] = call["negative_prompt"][:1]
    return call


def whole(name, pipe, call, *, seed):
    """Return the image that the stock pipeline hands to its codec, (3, H, W)."""
    given, decode = [], pipe.vae.decode
    pipe.vae.decode = lambda folded, **options: (given.append(folded), decode(folded, **options))[1]
    generator = [torch.Generator().manual_seed(seed)]
    # A copy: some pipelines write the chat template into the list of prompts.
    load_family(name).images(pipe, **{**call, "prompt": list(call["prompt"])}, generator=generator)
    del pipe.vae.decode
    folded = given[0].squeeze(2) if given[0].ndim == 5 else given[0]
    return functional.pixel_shuffle(folded, pipe.transformer.codec_factor)[0]


def stopping_after(rows):
    """Return a callback that stops as Ctrl-C does after so many rows of tiles."""
    count = SimpleNamespace(rows=0)

    def stop(new):
        count.rows += new
        if count.rows >= rows:
            raise KeyboardInterrupt

    return stop


def in_tiles(pipe, call, out, *, seed, tile_px, after_rows=lambda rows: None):
    """Sample a picture in tiles."""
    sample_in_tiles(
        pipe,
        read_script(pipe, **call),
        out,
        seed=seed,
        size_px=(call["height"], call["width"]),
        tile_px=tile_px,
        record={"prompt": call["prompt"][0], "seed": seed},
        after_trunk=lambda: None,
        after_rows=after_rows,
    )


def in_tiles_floats(pipe, call, folder, *, seed, tile_px):
    """Return the image before it becomes bytes, (3, H, W)."""
    unfinished = UnfinishedImage(path=folder, height=call["height"], width=call["width"])
    folder.mkdir(exist_ok=True)
    image = follow_script(
        pipe.transformer,
        read_script(pipe, **call),
        unfinished,
        seed=seed,
        tile_px=tile_px,
        after_trunk=lambda: None,
        after_rows=lambda rows: None,
    )
    return image.read_rows(0, call["height"])
