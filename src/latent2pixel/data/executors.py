"""A folder of images made by many processes: on this machine, on a Ray cluster, or through Slurm's queue.

datatrove starts the processes. Its own marks of finished tasks are not used: the shards themselves say what is done.
"""

import sys
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from latent2pixel.config import dump_yaml
from latent2pixel.data.generate_shard import ImageTask
from latent2pixel.errors import ConfigError, StateError

Executor = Literal["local", "ray", "slurm"]
LOGS = ".logs"
"""In the folder of images; readers of images pass over names that begin with a dot."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What is asked of a cluster for each process."""

    gpus: int = 1
    """GPUs; 0 makes images on the CPU."""
    cpus: int = 4
    """Cores: the pipeline's own work, and compressing images beside it."""
    gb_per_cpu: int = 8
    """Memory for each core, GB; Slurm only: a pipeline passes through it on the way to the GPU."""
    time: str = "12:00:00"
    """Slurm's limit for a job; what is missing then is made by the next call."""
    partition: str | None = None
    """Slurm's partition."""


def run_everywhere(
    task: ImageTask, *, executor: Executor, tasks: int, workers: int | None = None, resources: Resources | None = None
) -> bool:
    """Make a folder of images with many processes.

    Args:
        task: What to make.
        executor: "local": processes of this machine; "ray": of the Ray cluster that is in reach; "slurm": jobs that are
            queued and go on after this call.
        tasks: Number of shares; every share is one process's.
        workers: Processes at a time; None takes all.
        resources: What each process needs of a cluster.

    Returns:
        Whether the images are finished: False for jobs that are queued.

    Raises:
        ConfigError: The extra "scale" is not installed, or Slurm is not told its partition.
        StateError: Some shards are missing in the end; what went wrong is in the logs.
    """
    out = Path(task.out).resolve()
    source = str(Path(task.source).resolve()) if Path(task.source).is_dir() else task.source
    # Other machines start in other folders.
    task = replace(task, source=source, prompts=str(Path(task.prompts).resolve()), out=str(out))
    num_shards = task.count_shards()
    logs = out / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    dump_yaml(task, logs / "task.yaml")
    try:
        built = _build(executor, logs, tasks, workers or tasks, resources or Resources())
    except ImportError as error:
        raise ConfigError(
            f"The executor {executor} needs packages that are not installed",
            found=str(error),
            expected="datatrove, and ray for the executor ray",
            fix='Run `pip install "latent2pixel[scale]"`, or start processes yourself with --rank and --world-size.',
        ) from error
    built.run()
    if executor == "slurm":
        return False
    missing = [number for number in range(num_shards) if not (out / f"shard-{number:05d}").exists()]
    if missing:
        raise _unfinished(logs, missing, num_shards, tasks)
    return True


def _build(executor: Executor, logs: Path, tasks: int, workers: int, resources: Resources) -> Any:
    """Return a datatrove executor.

    Raises:
        ImportError: A package is missing.
    """
    from latent2pixel.data.shard_step import ShardStep

    common: dict[str, Any] = {
        "pipeline": [ShardStep(logs / "task.yaml", logs, raises=executor == "slurm")],
        "tasks": tasks,
        "workers": workers,
        "logging_dir": str(logs),
        "skip_completed": False,
    }
    if executor == "local":
        from datatrove.executor import LocalPipelineExecutor

        return LocalPipelineExecutor(**common)
    if executor == "ray":
        import ray
        from datatrove.executor import RayPipelineExecutor

        # Joins the cluster that RAY_ADDRESS or this machine knows; without one, Ray starts one here.
        ray.init(ignore_reinit_error=True, log_to_driver=False)
        return RayPipelineExecutor(
            **common, cpus_per_task=resources.cpus, gpus_per_task=resources.gpus, mem_per_cpu_gb=0
        )
    from datatrove.executor import SlurmPipelineExecutor

    if resources.partition is None:
        raise ConfigError(
            "Slurm has to be told where to run",
            found="no partition",
            expected="one that `sinfo` lists",
            fix="Add --partition NAME.",
        )
    return SlurmPipelineExecutor(
        **common,
        job_name="l2p-images",
        time=resources.time,
        partition=resources.partition,
        cpus_per_task=resources.cpus,
        mem_per_cpu_gb=resources.gb_per_cpu,
        gpus_per_task=resources.gpus,
        # The cluster's own default.
        qos="",
        # The worker's processes find the same programs as this one.
        env_command=f'export PATH="{Path(sys.executable).parent}:$PATH"',
    )


def _unfinished(logs: Path, missing: list[int], num_shards: int, tasks: int) -> StateError:
    from latent2pixel.data.shard_step import log_of

    log = log_of(logs, missing[0] % tasks)
    # An error has four parts, a line each.
    last = deque(log.open(encoding="utf-8", errors="replace"), maxlen=4) if log.exists() else ["nothing"]
    return StateError(
        f"{len(missing)} of {num_shards} shards were not made",
        found=f"shards {missing[:5]}; the end of {log}:\n{''.join(last).rstrip()}",
        expected="all shards",
        fix="Correct what the log tells, then run the same command again: it goes on.",
    )
