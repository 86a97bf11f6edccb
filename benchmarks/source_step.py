"""Time of one training step of the miniature source's transformer: how it is trained against the obvious way.

python benchmarks/source_step.py [--steps 4] [--compile]
"""

import argparse
import os
import platform
import statistics
import time
from datetime import date

import torch

from latent2pixel.world.z_image_source import build_transformer

BATCH_SIZE = 64


def seconds_per_step(*, attention: str, dtype: torch.dtype, compiled: bool, steps: int) -> float:
    """Return the median time of a step after two that warm up."""
    transformer = build_transformer(num_layers=6).to(dtype)
    transformer.set_attention_backend(attention)
    if compiled:
        transformer.compile_repeated_blocks()
    latents = list(torch.randn(BATCH_SIZE, 4, 1, 8, 8).to(dtype))
    captions = list(torch.randn(BATCH_SIZE, 20, 128).to(dtype))
    clock = torch.rand(BATCH_SIZE).to(dtype)
    optimizer = torch.optim.AdamW(transformer.parameters(), fused=True)
    times = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            output = transformer(latents, clock, captions, return_dict=False)[0]
        torch.stack(output).float().pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def main() -> None:
    """Print one line for each setting, with its ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="also compile the blocks; needs a C compiler")
    arguments = parser.parse_args()
    settings = [("native", torch.float32, False), ("_native_math", torch.float32, False)]
    settings += [
        ("_native_math", torch.bfloat16, compiled) for compiled in ((False, True) if arguments.compile else (False,))
    ]
    first = None
    for attention, dtype, compiled in settings:
        seconds = seconds_per_step(attention=attention, dtype=dtype, compiled=compiled, steps=arguments.steps)
        first = first or seconds
        setting = f"{attention:14} {dtype!s:15} compiled={compiled!s:6}"
        print(f"{setting} {seconds:.3f} s / step, {first / seconds:.2f} times as fast as the first")
    print(f"{date.today()}, {os.cpu_count()} cores {platform.machine()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
