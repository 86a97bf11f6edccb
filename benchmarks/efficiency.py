"""What a picture costs, latent source against pixel model, by size: latency, memory, tokens, rate of arithmetic.

python benchmarks/efficiency.py [--quick] [--json] [--model middle] [--release Z-Image] [--sizes 1024 2048] [--compiled]

Both run through their stock pipelines, guidance off, with random weights and a random encoded prompt of 200 tokens:
neither time nor memory depends on values. bfloat16 on GPUs, float32 on CPUs, most of which have no arithmetic of the
former. Models: the shipped miniature, a Z-Image of 6 blocks of width 512, or with --release a published one. The pixel
model keeps the number of tokens: patch 16 up to 1024 px, then as much larger as the picture, with a head of six levels
from patch 64 on, prepared as `l2p generate` does it. Its head runs in one piece, and where that takes more than
--head-memory once more in tiles. With --compiled the blocks of both are compiled, and the head in one piece. The
source's decode runs in one piece and in diffusers' tiles. One step: median of the steps after the first. Image: 30
steps and the decode, not run as a whole. Peak: weights and all, without the text encoder; on GPUs what torch has
allocated, on CPUs the largest resident size of a process of its own, 600 MB of it libraries. Operations are counted by
torch; the share is that of the rate of a large matrix product, measured in the same run. With one thread (taskset, or
OMP_NUM_THREADS=1) times are the processor's, which other jobs hardly lengthen.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from efficiency_models import build, device_name, head_of, now, patch_of
from latent2pixel.config.memory_size import parse_memory
from latent2pixel.errors import L2PError
from latent2pixel.generate.prepare import prepare_for_sampling
from latent2pixel.model.compute import compile_parts
from latent2pixel.model.head_budget import tile_for_budget

STEPS_OF_AN_IMAGE = 30
"""Of the released model, at 1024 px (L2P, arXiv 2605.12013)."""
LARGE_FROM_PX = 2048
"""From this size on a single step is measured."""
PROMPT_TOKENS = 200
MATRIX = {"cuda": 8192, "cpu": 2048}
"""Side of the matrices whose product gives the rate."""
QUICK = {"sizes": [512, 1024, 2048, 4096, 8192], "source_up_to": 1024}
"""Under five minutes on two cores, with the miniature."""
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3])
}
"""torch 2.13 counts nothing for attention on CPUs."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if torch.cuda.is_available() else torch.float32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the miniature, 512 to 8192 px, its source up to 1024 px")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--model", default="miniature", choices=["miniature", "middle"])
    parser.add_argument("--release", help="published source of the family z_image, such as Z-Image")
    parser.add_argument("--sizes", type=int, nargs="+", help="widths and heights in pixels")
    parser.add_argument("--source-up-to", type=int, help="largest size of the source; default: 4096")
    parser.add_argument("--head-memory", default="2GB", help="the head's memory above which it runs in tiles too")
    parser.add_argument("--compiled", action="store_true", help="compile the blocks of both and the head: minutes more")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "SIZE", "TILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    name = arguments.release or arguments.model
    if arguments.one:
        kind, size_px, tile_px = arguments.one[0], int(arguments.one[1]), int(arguments.one[2]) or None
        pipe = build(kind, name, size_px)
        print(json.dumps(measured(pipe, kind, size_px, tile_px=tile_px, compiled=arguments.compiled)))
        return
    sizes = arguments.sizes or (QUICK["sizes"] if arguments.quick else [512, 1024, 2048, 4096])
    largest_source = arguments.source_up_to or (QUICK["source_up_to"] if arguments.quick else 4096)
    wanted = [("source", size_px, None) for size_px in sizes if size_px <= largest_source]
    wanted += [("pixel", size_px, None) for size_px in sizes]
    wanted += [
        ("pixel", size_px, tile)
        for size_px in sizes
        if (tile := tile_of(name, size_px, budget_bytes=parse_memory(arguments.head_memory)))
    ]
    rows, rate = [], matmul_tflops()
    for kind, size_px, tile_px in sorted(wanted, key=lambda each: each[0], reverse=True):
        row = described(kind, size_px, tile_px) | run_one(kind, size_px, tile_px, name=name, arguments=arguments)
        if "step_ms" in row:
            row["rate_share"] = row["step_tflop"] / (row["step_ms"] / 1000) / rate
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    machine = {"date": date.today().isoformat(), "device": device_name(), "cores": os.cpu_count()}
    machine |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "matmul_tflops": rate, "model": name}
    machine["compiled"] = arguments.compiled
    if arguments.json:
        peaks = {row["head"]: row["peak_mb"] for row in rows if row["size_px"] == 8192 and "peak_mb" in row}
        print(json.dumps({"rows": rows, "ratios": ratios(rows), "peak_mb_8192_px": peaks} | machine))
    else:
        print(table(rows), json.dumps(ratios(rows)), machine, sep="\n")


def tile_of(name: str, size_px: int, *, budget_bytes: int) -> int | None:
    """Return the head's tile for a budget, None where it fits in one piece."""
    patch, channels, width = head_of(name, size_px)
    del patch
    size = (size_px, size_px)
    return tile_for_budget(channels, size, budget_bytes=budget_bytes, dtype=DTYPE, feature_dim=width)


def described(kind: str, size_px: int, tile_px: int | None) -> dict[str, Any]:
    """Return what a row is about."""
    patch = 16 if kind == "source" else patch_of(size_px)
    head = "none" if kind == "source" else "one piece" if tile_px is None else f"tiles of {tile_px} px"
    return {"model": kind, "size_px": size_px, "patch_px": patch, "tokens": (size_px // patch) ** 2, "head": head}


def run_one(
    kind: str, size_px: int, tile_px: int | None, *, name: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measure one row: on CPUs in a process of its own, whose memory is then the measurement's alone."""
    if DEVICE == "cuda":
        try:
            pipe = build(kind, name, size_px)
            return measured(pipe, kind, size_px, tile_px=tile_px, compiled=arguments.compiled)
        except torch.OutOfMemoryError:
            return {"failed": "out of memory"}
    command = [sys.executable, __file__, "--one", kind, str(size_px), str(tile_px or 0)]
    command += ["--release", arguments.release] if arguments.release else ["--model", name]
    command += ["--compiled"] if arguments.compiled else []
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": f"ended with status {finished.returncode}: {last[:200]}"}
    return json.loads(finished.stdout.strip().splitlines()[-1])


@torch.no_grad()
def measured(pipe: Any, kind: str, size_px: int, *, tile_px: int | None, compiled: bool) -> dict[str, Any]:
    """Return what one step and one decode of a size cost."""
    large = size_px >= LARGE_FROM_PX
    if kind == "pixel":
        pipe.transformer.head.tile_px = tile_px
        prepare_for_sampling(pipe)
    width = pipe.transformer.config["cap_feat_dim"]
    prompt = [torch.randn(PROMPT_TOKENS, width, dtype=DTYPE, device=DEVICE)]
    ends: list[float] = []

    def note(_pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        ends.append(now())
        return tensors

    def run(steps: int) -> torch.Tensor:
        call = {"prompt_embeds": prompt, "height": size_px, "width": size_px, "guidance_scale": 0.0}
        return pipe(
            **call, num_inference_steps=steps, output_type="latent", callback_on_step_end=note,
            generator=torch.Generator(DEVICE).manual_seed(0),
        ).images  # fmt: skip

    num_steps = 2 if large else 4
    # Counting takes microseconds an operation: nothing on large pictures on a CPU, which take minutes.
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counted:
        latents, num_counted = (run(num_steps), num_steps) if large and DEVICE == "cpu" else (run(1), 1)
    if compiled:  # not before: a compiled part hides its operations from the count
        compile_blocks = compile_parts if kind == "pixel" else type(pipe.transformer).compile_repeated_blocks
        compile_blocks(pipe.transformer)
        run(1)
    reset_peak()
    if num_counted == 1 or compiled:
        ends.clear()
        latents = run(num_steps)
    steps = [after - before for before, after in itertools.pairwise(ends)]
    step_peak = peak_mb()
    step_ms = 1000 * statistics.median(steps)
    row = {
        "step_ms": step_ms,
        "step_spread": (max(steps) - min(steps)) / statistics.median(steps) if len(steps) > 1 else None,
        "step_peak_mb": step_peak,
        "step_tflop": counted.get_total_flops() / num_counted / 1e12,
    }
    # Tiles first: on CPUs a peak cannot be forgotten.
    for key in ["tiled_decode", "decode"] if kind == "source" else ["decode"]:
        seconds, peak = decoded(pipe, latents, tiled=key == "tiled_decode")
        row |= {f"{key}_ms": 1000 * seconds, f"{key}_peak_mb": peak}
    decode_s = min(row["decode_ms"], row.get("tiled_decode_ms", row["decode_ms"])) / 1000
    row["image_s"] = STEPS_OF_AN_IMAGE * step_ms / 1000 + decode_s
    # The least that a picture needs: with the decode in tiles where there are any.
    row["peak_mb"] = max(step_peak, row.get("tiled_decode_peak_mb", row["decode_peak_mb"]))
    return row


def decoded(pipe: Any, latents: torch.Tensor, *, tiled: bool) -> tuple[float, float]:
    """Return the seconds of a decode and its peak in MB, infinity where it does not fit."""
    given = latents.to(pipe.vae.dtype)

    def once() -> float:
        started = now()
        pipe.vae.decode(given, return_dict=False)
        return now() - started

    reset_peak()
    if tiled:
        pipe.vae.enable_tiling()
    try:
        once()  # warms up
        return once(), peak_mb()
    except torch.OutOfMemoryError:
        return float("inf"), float("inf")
    finally:
        if tiled:
            pipe.vae.disable_tiling()


def matmul_tflops() -> float:
    """Return the rate of a large matrix product, in 10**12 operations a second."""
    side = MATRIX[DEVICE]
    left, right = (torch.randn(side, side, dtype=DTYPE, device=DEVICE) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: left @ right) / 1e12


def median_seconds(run: Callable[[], object], *, repeat: int = 10) -> float:
    """Return the median time of a call after three that warm up."""
    times = []
    for _ in range(3 + repeat):
        started = now()
        run()
        times.append(now() - started)
    return statistics.median(times[3:])


def reset_peak() -> None:
    """Forget earlier peaks, where that can be done."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mb() -> float:
    """Return the largest memory since ``reset_peak``, on CPUs since the process began, in MB of 10**6 bytes."""
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return source over pixel model, head in one piece, by size, where both were measured."""
    by_key = {(row["model"], row["size_px"], row["head"]): row for row in rows if "step_ms" in row}
    found = {}
    for (kind, size_px, _), source in by_key.items():
        pixel = by_key.get(("pixel", size_px, "one piece"))
        if kind == "source" and pixel is not None:
            keys = ("step_ms", "image_s", "peak_mb", "step_tflop")
            found[str(size_px)] = {key: round(source[key] / pixel[key], 3) for key in keys}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| model | px | patch | tokens | head | step, ms (spread) | decode, ms (tiled) | image of 30 steps, s "
        "| peak, MB (decode untiled) | 10^12 operations a step | share of the matrix rate |",
        "| --- " * 11 + "|",
    ]
    for row in rows:
        start = " | ".join(str(row[key]) for key in ("model", "size_px", "patch_px", "tokens", "head"))
        if "failed" in row:
            lines.append(f"| {start} | {row['failed']} |" + " |" * 5)
            continue
        step, decode, peak = f"{row['step_ms']:.1f}", f"{row['decode_ms']:.1f}", f"{row['peak_mb']:.0f}"
        step += "" if row["step_spread"] is None else f" ({row['step_spread']:.0%})"
        if "tiled_decode_ms" in row:
            decode += f" ({row['tiled_decode_ms']:.1f})"
            peak += f" ({max(row['step_peak_mb'], row['decode_peak_mb']):.0f})"
        lines.append(
            f"| {start} | {step} | {decode} | {row['image_s']:.2f} | {peak} "
            f"| {row['step_tflop']:.3f} | {row['rate_share']:.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except L2PError as error:
        raise SystemExit(str(error)) from None
