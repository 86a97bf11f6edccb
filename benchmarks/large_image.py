"""What a large picture takes: in tiles with the running image on the disk, against the stock pipeline whole in memory.

python benchmarks/large_image.py [--sizes 1024 2048 4096 8192] [--patch 128] [--memory 3GB] [--guidance 2.0] [--json]

The miniature source converted with a quarter of the published head, random new weights: neither time nor memory depends
on values. One step of the scheduler; everything around it, loading and the PNG among it, is in the peak,
and all but loading in the seconds. Every picture has a process of its own. Peak: the largest resident size of that
process (VmHWM), in GB of 10**9 bytes; on a GPU what torch has allocated. Whole pictures that would not fit into what
the machine has free are left out, with the estimate by which `l2p generate` decides.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from latent2pixel.config.memory_size import parse_memory
from latent2pixel.convert import convert
from latent2pixel.generate import load_pipeline
from latent2pixel.generate.budget import choose_tile, peak_bytes, whole_bytes
from latent2pixel.generate.picture import Picture, PictureSettings
from latent2pixel.generate.run import generate_pictures
from latent2pixel.io.pipeline_folder import parse_dtype
from latent2pixel.recipes.miniature import HEAD_CHANNELS
from latent2pixel.world.source_model import SHIPPED_SOURCE


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--patch", type=int, default=128, help="that of 8192 px: 64 x 64 tokens; 160 for 10240 px")
    parser.add_argument("--memory", default="3GB", help="budget of the tiles")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--dtype", default="bfloat16", help="as the miniature is stored")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "SIZE", "MEMORY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        convert(SHIPPED_SOURCE, model, patch_size=arguments.patch, head=HEAD_CHANNELS, num_blocks=1)
        for size in arguments.sizes:
            for way, memory in ((f"--memory {arguments.memory}", arguments.memory), ("whole", None)):
                rows.append({"size": size, "way": way, **in_own_process(model, size, memory, arguments)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    if arguments.json:
        print(json.dumps({"rows": rows, "chip": chip, "torch": torch.__version__, "date": str(date.today())}))
        return
    print("| size | way | tile | seconds | processor seconds | peak GB |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        if "estimate_gb" in row:
            figures = f"none | | | not made: about {row['estimate_gb']:.0f} needed"
        else:
            tile = row["tile_px"] or "none"
            figures = f"{tile} | {row['seconds']:.1f} | {row['processor_s']:.1f} | {row['peak_gb']:.2f}"
        print(f"| {row['size']} | {row['way']} | {figures} |")
    print(f"\n{chip}, torch {torch.__version__}, {date.today()}")


def in_own_process(model: Path, size: int, memory: str | None, arguments: argparse.Namespace) -> dict:
    """Return one measurement; ``memory`` None: whole, if what is free suffices."""
    told = [str(model), str(size), memory or "free", "--guidance", str(arguments.guidance), "--dtype", arguments.dtype]
    done = subprocess.run([sys.executable, __file__, "--one", *told], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measured(arguments: argparse.Namespace) -> dict:
    """Make one picture and return its figures."""
    folder, size, memory = arguments.one
    pipe = load_pipeline(folder, torch_dtype=parse_dtype(arguments.dtype))
    size_px = int(size), int(size)
    budget = None if memory == "free" else parse_memory(memory)
    if budget is None and choose_tile(pipe, size_px, batch=1, budget_bytes=None) is not None:
        return {"estimate_gb": whole_bytes(pipe, size_px, batch=1) / 1e9}
    settings = PictureSettings(size_px=size_px, num_steps=1, guidance_scale=arguments.guidance)
    with tempfile.TemporaryDirectory() as out:
        picture = Picture(path=Path(out) / "a.png", prompt="a red circle to the left of a blue square", seed=0)
        began, worked = time.perf_counter(), time.process_time()
        (made,) = generate_pictures(pipe, [picture], settings, budget_bytes=budget)
    return {
        "tile_px": made.tile_px,
        "seconds": time.perf_counter() - began,
        "processor_s": time.process_time() - worked,
        "peak_gb": peak_bytes(pipe.transformer.device) / 1e9,
    }


if __name__ == "__main__":
    main()
