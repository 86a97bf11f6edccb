"""What a picture costs, latent source against pixel model, by size: latency, memory, tokens, rate of arithmetic.

python benchmarks/efficiency.py [--quick] [--json] [--release Z-Image] [--sizes 1024 2048 4096] [--source-up-to 4096]

Both run through their stock pipelines, guidance off, with random weights in bfloat16 and a random encoded prompt of 200
tokens: neither time nor memory depends on values. Without --release a Z-Image of about an eighth of the width and a
fifth of the depth, for CPUs. The pixel model keeps the number of tokens: patch 16 up to 1024 px, then as much larger as
the picture, with the published head of six levels from patch 64 on. One step: median of the steps after the first.
Image: 30 steps and the decode, not run as a whole. Peak: weights and all, without the text encoder; on GPUs what torch
has allocated, on CPUs the largest resident size of a process of its own. Operations are counted by torch in a step of
their own; the share is that of the rate of a large matrix product, measured in the same run.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline
from torch.utils.flop_counter import FlopCounterMode

from latent2pixel.errors import L2PError
from latent2pixel.families import load_family, load_pixel_class
from latent2pixel.families.catalogue import full_config, releases
from latent2pixel.model.codec import PixelVAE
from lift_scale import VAE
from train_memory import TOLD

STEPS_OF_AN_IMAGE = 30
"""Of the released model, at 1024 px (L2P, arXiv 2605.12013)."""
TOKEN_GRID_PX = 1024
"""Up to this size the patch stays 16."""
HEAD_4K_FROM_PATCH = 64
SMALL = {"dim": 512, "n_layers": 6, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4}
"""For CPUs: about an eighth of Z-Image's width, a fifth of its depth."""
MATRIX = {"cuda": 8192, "cpu": 2048}
"""Side of the matrices whose product gives the rate."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256 and 512 px")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--release", help="published source of the family z_image, such as Z-Image")
    parser.add_argument("--sizes", type=int, nargs="+", help="widths and heights in pixels")
    parser.add_argument("--source-up-to", type=int, default=4096, help="largest size of the source")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = arguments.sizes or ([256, 512] if arguments.quick else [512, 1024, 2048, 4096])
    if arguments.one:
        kind, size_px = arguments.one[0], int(arguments.one[1])
        print(json.dumps(measured(build(kind, arguments.release, size_px), kind, size_px)))
        return
    rows, rate = [], matmul_tflops()
    for kind in ("source", "pixel"):
        pipe = None
        for size_px in sizes:
            if kind == "source" and size_px > arguments.source_up_to:
                continue
            if torch.cuda.is_available():
                # The pixel model of each size has another input projection and head.
                pipe = build(kind, arguments.release, size_px) if pipe is None or kind == "pixel" else pipe
                row = measured(pipe, kind, size_px)
            else:
                row = in_own_process(kind, arguments.release, size_px)
            rows.append(row | {"rate_share": row["step_tflop"] / (row["step_ms"] / 1000) / rate})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        del pipe
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    machine = {"date": date.today().isoformat(), "device": chip, "cores": os.cpu_count(), "torch": torch.__version__}
    machine |= {"matmul_tflops": rate, "source": arguments.release or f"Z-Image with {SMALL}"}
    if arguments.json:
        print(json.dumps({"rows": rows, "ratios": ratios(rows)} | machine))
    else:
        print(table(rows), json.dumps(ratios(rows)), machine, sep="\n")


def in_own_process(kind: str, release: str | None, size_px: int) -> dict[str, Any]:
    """Measure one model at one size in a process of its own, whose memory is then the measurement's alone."""
    command = [sys.executable, __file__, "--one", kind, str(size_px)]
    command += ["--release", release] if release else []
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{kind} at {size_px} px ended with status {finished.returncode}:\n{finished.stderr[-800:]}")
    return json.loads(finished.stdout.strip().splitlines()[-1])


def patch_of(size_px: int) -> int:
    """Return the patch of the pixel model for a size: never more tokens than at 1024 px."""
    return 16 * max(1, size_px // TOKEN_GRID_PX)


def build(kind: str, release: str | None, size_px: int) -> ZImagePipeline:
    """Return a stock pipeline with random weights, without text encoder."""
    name = release or "Z-Image"
    found = next((each for each in releases() if each.release == name and each.family == "z_image"), None)
    if found is None:
        raise SystemExit(f"no release {name!r} of the family z_image; see `l2p families`")
    config = full_config(found) | ({} if release else SMALL)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "source":
        family = load_family(found.family)
        with torch.device("meta"):
            transformer = family.transformer_class(**{k: v for k, v in config.items() if not k.startswith("_")})
        vae = AutoencoderKL(**VAE)
    else:
        patch = patch_of(size_px)
        head = {"head_channels": (16, 32, 64, 128, 256, 512)} if patch >= HEAD_4K_FROM_PATCH else {}
        transformer = load_pixel_class(found.family).from_config_of(config, pixel_patch_size=patch, **head)
        vae = PixelVAE(transformer.factor)
    transformer = transformer.to(torch.bfloat16).to_empty(device=device)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.to(device, torch.bfloat16),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer.eval(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def measured(pipe: ZImagePipeline, kind: str, size_px: int) -> dict[str, Any]:
    """Return what one step and one decode of a size cost."""
    device, large = pipe.transformer.device, size_px > 2 * TOKEN_GRID_PX
    (told,) = TOLD["z_image"].values()
    prompt = [torch.randn(told, dtype=torch.bfloat16, device=device)]
    ends: list[float] = []

    def note(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        ends.append(now())
        return tensors

    def run(steps: int) -> torch.Tensor:
        call = {"prompt_embeds": prompt, "height": size_px, "width": size_px, "guidance_scale": 0.0}
        return pipe(
            **call, num_inference_steps=steps, output_type="latent", callback_on_step_end=note,
            generator=torch.Generator(device).manual_seed(0),
        ).images  # fmt: skip

    with FlopCounterMode(display=False) as counted:
        run(1)
    reset_peak()
    ends.clear()
    latents = run(2 if large else 6)
    steps = [after - before for before, after in itertools.pairwise(ends)]
    step_peak = peak_gb()
    decode_s, tiled, decode_peak = decoded(pipe, latents, repeat=1 if large else 3)
    step_ms = 1000 * statistics.median(steps)
    return {
        "model": kind,
        "size_px": size_px,
        "patch_px": 16 if kind == "source" else patch_of(size_px),
        "tokens": (size_px // (16 if kind == "source" else patch_of(size_px))) ** 2,
        "step_ms": step_ms,
        "step_spread": (max(steps) - min(steps)) / statistics.median(steps),
        "decode_ms": 1000 * decode_s,
        "decode": "tiled: untiled ran out of memory" if tiled else "untiled",
        "image_s": (STEPS_OF_AN_IMAGE * step_ms / 1000) + decode_s,
        "step_peak_gb": step_peak,
        "peak_gb": max(step_peak, decode_peak),
        "step_tflop": counted.get_total_flops() / 1e12,
    }


def decoded(pipe: ZImagePipeline, latents: torch.Tensor, *, repeat: int) -> tuple[float, bool, float]:
    """Return the seconds of a decode, whether it had to be tiled, and its peak in GB."""
    given = latents.to(pipe.vae.dtype)

    def once() -> float:
        started = now()
        pipe.vae.decode(given, return_dict=False)
        return now() - started

    reset_peak()
    try:
        once()
        return statistics.median(once() for _ in range(repeat)), False, peak_gb()
    except torch.OutOfMemoryError:
        pass
    reset_peak()
    pipe.vae.enable_tiling()
    seconds = once()
    pipe.vae.disable_tiling()
    return seconds, True, peak_gb()


def matmul_tflops() -> float:
    """Return the rate of a large bfloat16 matrix product, in 10**12 operations a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = MATRIX[device]
    left, right = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: left @ right) / 1e12


def median_seconds(run: Callable[[], object], *, repeat: int = 10) -> float:
    """Return the median time of a call after three that warm up."""
    times = []
    for _ in range(3 + repeat):
        started = now()
        run()
        times.append(now() - started)
    return statistics.median(times[3:])


def now() -> float:
    """Return the clock once all queued work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak() -> None:
    """Forget earlier peaks, where that can be done."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb() -> float:
    """Return the largest memory since ``reset_peak``, on CPUs since the process began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return source over pixel model, by size, where both were measured."""
    by_key = {(row["model"], row["size_px"]): row for row in rows}
    found = {}
    for (kind, size_px), source in by_key.items():
        pixel = by_key.get(("pixel", size_px))
        if kind == "source" and pixel is not None:
            keys = ("step_ms", "image_s", "peak_gb", "step_tflop")
            found[str(size_px)] = {key: round(source[key] / pixel[key], 3) for key in keys}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| model | px | patch | tokens | step, ms (spread) | decode, ms | image of 30 steps, s | peak, GB "
        "| 10^12 operations a step | share of the matrix rate |",
        "| --- " * 10 + "|",
    ]
    for row in rows:
        decode = f"{row['decode_ms']:.1f}" + (" (tiled)" if row["decode"] != "untiled" else "")
        lines.append(
            f"| {row['model']} | {row['size_px']} | {row['patch_px']} | {row['tokens']} | {row['step_ms']:.1f} "
            f"({row['step_spread']:.0%}) | {decode} | {row['image_s']:.2f} | {row['peak_gb']:.2f} "
            f"| {row['step_tflop']:.2f} | {row['rate_share']:.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except L2PError as error:
        raise SystemExit(str(error)) from None
