"""The detailer head in torch's usual memory layout against channels last, and compiled, forward and with its gradient.

python benchmarks/head_layout.py [--quick] [--json]

The published heads with random weights in bfloat16: 1k on one image (patch 16), 4k on one image (patch 64), features of
Z-Image's width. Weights and images are both stored in the layout. Median after warm-up; the ratio is that of the usual
layout, eager, to the row. The gradient is that of all weights, activations kept.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import torch

from latent2pixel.model.head import HEAD_CHANNELS, DetailerHead

WIDTH = 3840
"""Of Z-Image's trunk."""
CASES = {"1k": (16, 1024), "4k": (64, 4096)}
"""Head -> patch and image size in pixels."""
CPU_SHRINK = 4
"""Factor on sizes for CPUs."""
WAYS = (
    ("usual, eager", torch.contiguous_format, False),
    ("channels last, eager", torch.channels_last, False),
    ("usual, compiled", torch.contiguous_format, True),
    ("channels last, compiled", torch.channels_last, True),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, nothing compiled")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for head, (patch, size_px) in CASES.items():
        size_px = size_px if device.type == "cuda" else size_px // CPU_SHRINK
        for gradient in (False, True):
            first = None
            for name, layout, compiled in WAYS:
                if compiled and arguments.quick:
                    continue
                run = case(head, patch, size_px, device=device, layout=layout, compiled=compiled, gradient=gradient)
                seconds, spread = timed(run, repeat=3 if arguments.quick else 10)
                first = first or seconds
                rows.append(
                    {"head": head, "size_px": size_px, "pass": "forward and backward" if gradient else "forward"}
                    | {"way": name, "ms": 1000 * seconds, "spread": spread, "ratio": first / seconds}
                )
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    chip = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    machine = {"date": date.today().isoformat(), "device": chip, "cores": os.cpu_count(), "torch": torch.__version__}
    if arguments.json:
        print(json.dumps({"rows": rows} | machine))
        return
    print("| head | px | pass | way | ms (spread) | times as fast |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['head']} | {row['size_px']} | {row['pass']} | {row['way']} "
            f"| {row['ms']:.2f} ({row['spread']:.0%}) | {row['ratio']:.2f} |"
        )
    print(machine)


def case(
    head: str, patch: int, size_px: int, *, device: torch.device, layout: torch.memory_format, compiled: bool,
    gradient: bool,
) -> Callable[[], None]:  # fmt: skip
    """Return one call of a head."""
    torch.manual_seed(0)
    model: Any = DetailerHead(WIDTH, channels=HEAD_CHANNELS[head])
    model = model.to(device, torch.bfloat16, memory_format=layout)
    if compiled:
        model.compile()
    image_BCHW = torch.randn(1, 3, size_px, size_px, device=device, dtype=torch.bfloat16).to(memory_format=layout)
    grid = size_px // patch
    # The trunk's tokens lie channel last in memory, whatever the head's layout.
    tokens_BhwD = torch.randn(1, grid, grid, WIDTH, device=device, dtype=torch.bfloat16)
    feature_BDhw = tokens_BhwD.permute(0, 3, 1, 2)

    def run() -> None:
        with torch.set_grad_enabled(gradient):
            out_BCHW = model(image_BCHW, feature_BDhw)
            if gradient:
                out_BCHW.square().mean().backward()
        model.zero_grad()

    return run


def timed(run: Callable[[], None], *, repeat: int) -> tuple[float, float]:
    """Return the median time of a call after three that warm up, and (max - min) / median."""
    times = []
    for _ in range(3 + repeat):
        started = now()
        run()
        times.append(now() - started)
    times = times[3:]
    median = statistics.median(times)
    return median, (max(times) - min(times)) / median


def now() -> float:
    """Return the clock once all queued work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
