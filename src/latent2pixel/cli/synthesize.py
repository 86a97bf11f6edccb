"""``l2p data synthesize``: images of prompts, made by the source, on one process or many."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from latent2pixel.errors import ConfigError


def synthesize(
    source: Annotated[str, typer.Argument(help="Pipeline: a folder, or owner/name on the Hub.")],
    prompts: Annotated[Path, typer.Argument(help="JSON lines of prompts, or the folder of `l2p data prompts`.")],
    out: Annotated[Path, typer.Argument(help="Receives the images; the same call again goes on.")],
    seeds_per_prompt: Annotated[int, typer.Option(help="Images of each prompt.")] = 2,
    size: Annotated[
        int, typer.Option(help="Width and height in pixels; of other aspects the root of the area.")
    ] = 1024,
    aspects: Annotated[
        str, typer.Option(help="Width to height, such as 1:1,3:2,2:3; with shares 1:1=2,3:2=1.")
    ] = "1:1",
    steps: Annotated[int, typer.Option(help="Steps of the pipeline's scheduler.")] = 30,
    guidance: Annotated[float, typer.Option(help="Guidance scale of the pipeline.")] = 2.0,
    batch_size: Annotated[str, typer.Option(help="Images at a time, or auto: as many as fit into memory.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of all images.")] = 0,
    shard_size: Annotated[int, typer.Option(min=1, help="Images in a shard, the least that a process gets.")] = 240,
    scorer: Annotated[
        str | None, typer.Option(help="package.module:function, from image and prompt to a score.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Least score of an image that stays.")] = None,
    best_of: Annotated[int, typer.Option(min=1, help="Images made for each one that can stay.")] = 1,
    dtype: Annotated[str | None, typer.Option(help="Dtype of the pipeline; default: each part's own.")] = None,
    rank: Annotated[int | None, typer.Option(help="Number of this process; default: torchrun's, or 0.")] = None,
    world_size: Annotated[
        int | None, typer.Option(help="Processes that share the folder; default: torchrun's, or 1.")
    ] = None,
    executor: Annotated[
        Literal["local", "ray", "slurm"] | None, typer.Option(help="Start processes: here, on Ray, or through Slurm.")
    ] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="With --executor: shares; default: one a worker.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="With --executor: processes at a time.")] = None,
    gpus_per_task: Annotated[int, typer.Option(min=0, help="Ray, Slurm: GPUs of each process.")] = 1,
    cpus_per_task: Annotated[int, typer.Option(min=1, help="Ray, Slurm: cores of each process.")] = 4,
    gb_per_cpu: Annotated[int, typer.Option(min=1, help="Slurm: memory for each core, GB.")] = 8,
    partition: Annotated[str | None, typer.Option(help="Slurm: partition.")] = None,
    time: Annotated[str, typer.Option(help="Slurm: limit of a job.")] = "12:00:00",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the result.")] = False,
) -> None:
    """Make images of every prompt with a stock pipeline."""
    from dataclasses import asdict

    from latent2pixel.data.generate_shard import ImageTask, generate_shard

    task = ImageTask(
        source=source,
        prompts=str(prompts),
        out=str(out),
        seeds_per_prompt=seeds_per_prompt,
        image_size_px=size,
        aspects=aspects,
        num_steps=steps,
        guidance_scale=guidance,
        batch_size=_batch_size(batch_size),
        seed=seed,
        shard_size=shard_size,
        scorer=scorer,
        threshold=threshold,
        best_of=best_of,
        dtype=dtype,
    )
    _require_one_launcher(
        executor, own={"rank": rank, "world-size": world_size}, executors={"tasks": tasks, "workers": workers}
    )
    if executor is None:
        own_rank, all_ranks, local_rank = _place(rank, world_size)
        report = generate_shard(own_rank, all_ranks, task=task, local_rank=local_rank)
        result = {"out": str(out), **asdict(report)}
    else:
        from latent2pixel.data.executors import Resources, run_everywhere

        resources = Resources(
            gpus=gpus_per_task, cpus=cpus_per_task, gb_per_cpu=gb_per_cpu, time=time, partition=partition
        )
        shares = tasks or workers or 1
        done = run_everywhere(task, executor=executor, tasks=shares, workers=workers, resources=resources)
        result = {"out": str(out), "finished": done}
    typer.echo(json.dumps(result) if as_json else str(out))


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise ConfigError(
            "The batch size is no number",
            found=repr(text),
            expected="a number above 0, or auto",
            fix="Correct --batch-size.",
        )
    return int(text)


def _require_one_launcher(
    executor: str | None, *, own: dict[str, int | None], executors: dict[str, int | None]
) -> None:
    """Refuse options that the chosen way of starting processes would pass over."""
    if unused := [f"--{name}" for name, value in (executors if executor is None else own).items() if value is not None]:
        beside = "without --executor" if executor is None else f"beside --executor {executor}"
        raise ConfigError(
            "The options for starting processes do not go together",
            found=f"{' and '.join(unused)} {beside}",
            expected="--executor with --tasks and --workers, or --rank with --world-size, or neither",
            fix="Remove one of them.",
        )


def _place(rank: int | None, world_size: int | None) -> tuple[int, int, int | None]:
    """Return rank, world size and rank on this machine: as given, else as torchrun tells them, else alone."""
    if rank is not None or world_size is not None or "RANK" not in os.environ:
        return rank or 0, 1 if world_size is None else world_size, None
    told = os.environ
    return int(told["RANK"]), int(told["WORLD_SIZE"]), int(told.get("LOCAL_RANK", told["RANK"]))
