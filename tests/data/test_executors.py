"""The same images from many processes as from one, however they are started; none is lost with a killed process."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.data.test_synthesize import TEXTS, images, largest_difference
from tests.tiny import EXAMPLES, save_tiny_pipeline

import latent2pixel
from latent2pixel.config import dump_yaml
from latent2pixel.data.executors import LOGS, Resources, run_everywhere
from latent2pixel.data.generate_shard import ImageTask, generate_shard
from latent2pixel.errors import ConfigError, StateError
from latent2pixel.io.records import read_records, write_records

NUM_IMAGES = 6
ON_CPU = Resources(gpus=0, cpus=1, gb_per_cpu=1, partition="any")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Six images in six shards; ``out`` is to be replaced."""
    folder = tmp_path_factory.mktemp("task")
    records = [{"id": f"p{i}", "prompt": text, "major_class": "m", "sub_class": "s"} for i, text in enumerate(TEXTS)]
    write_records(folder / "prompts.jsonl", records)
    source = save_tiny_pipeline(EXAMPLES[0], folder / "source")
    return ImageTask(
        source=str(source), prompts=str(folder), out="", image_size_px=32, num_steps=2, shard_size=1, batch_size=1
    )


@pytest.fixture(scope="module")
def alone(task, tmp_path_factory):
    """The images of one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert generate_shard(0, 1, task=replace(task, out=str(out))).num_new == NUM_IMAGES
    return out


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Processes that are started import this package and these tests, and no more than one thread each."""
    paths = [str(Path(latent2pixel.__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def require_equal(out, alone):
    """Compare every record and every pixel, and that nothing comes twice."""
    records, expected = (
        [(file.parent.name, record) for file in sorted(folder.glob("shard-*/*.jsonl")) for record in read_records(file)]
        for folder in (out, alone)
    )
    assert records == expected
    assert len(records) == NUM_IMAGES
    assert largest_difference(images(out), images(alone)) == 0


def test_every_rank_may_run_again_and_with_other_worlds(task, alone, tmp_path):
    task = replace(task, out=str(tmp_path / "out"))
    assert [generate_shard(rank, 4, task=task).num_new for rank in (2, 0)] == [1, 2]
    assert generate_shard(0, 4, task=task).num_new == 0
    assert generate_shard(0, 1, task=task).num_new == NUM_IMAGES - 3
    require_equal(tmp_path / "out", alone)


def test_local_processes(task, alone, tmp_path):
    assert run_everywhere(replace(task, out=str(tmp_path / "out")), executor="local", tasks=2)
    require_equal(tmp_path / "out", alone)


def test_failure_is_told_with_the_logs_last_words(task, tmp_path):
    bad = replace(task, out=str(tmp_path / "out"), image_size_px=33)
    with pytest.raises(StateError, match="6 of 6 shards were not made") as error:
        run_everywhere(bad, executor="local", tasks=1)
    assert "found:" in error.value.found
    assert "33 x 33" in error.value.found
    assert str(tmp_path / "out" / LOGS) in error.value.found


def test_torchrun_decides_rank_and_world_size(task, alone, tmp_path):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"),
        *(sys.executable, "-c", "from latent2pixel.cli.app import main; main()", "data", "synthesize"),
        *(task.source, task.prompts, str(tmp_path / "out"), "--size", "32", "--steps", "2", "--shard-size", "1"),
        *("--batch-size", "1"),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=200)
    require_equal(tmp_path / "out", alone)


def test_process_ends_with_its_starter(task, tmp_path):
    """Ray and Slurm end what they have started, not what that has started in turn."""
    dump_yaml(replace(task, out=str(tmp_path / "out"), num_steps=100_000), tmp_path / "task.yaml")
    starter = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    program = [sys.executable, "-m", "latent2pixel.data.generate_shard"]
    process = subprocess.Popen([*program, str(tmp_path / "task.yaml"), "0", "1", str(starter.pid)])
    try:
        deadline = time.monotonic() + 120
        while not [*(tmp_path / "out").glob(".shard-*.partial/.claim@*")] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert process.poll() is None
        starter.kill()
        starter.wait()
        assert process.wait(timeout=60) == 1
    finally:
        process.kill()


def kill_the_first_worker(out, killed):
    """Kill the process that holds the first shard in the making, in which an image may stand already."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for claim in out.glob(".shard-*.partial/.claim@*@*"):
            pid = int(claim.name.split("@")[2])
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return
        time.sleep(0.001)


@pytest.mark.e2e
def test_two_ray_nodes_of_which_a_worker_is_killed(task, alone, tmp_path, monkeypatch):
    """Same records as one process; the killed worker's shard is made again, nothing comes twice."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    killed: list[int] = []
    killer = threading.Thread(target=kill_the_first_worker, args=(tmp_path / "out", killed))
    killer.start()
    try:
        task = replace(task, out=str(tmp_path / "out"))
        assert run_everywhere(task, executor="ray", tasks=2, resources=ON_CPU)
    finally:
        killer.join()
        ray.shutdown()
        cluster.shutdown()
    assert len(killed) == 1
    require_equal(tmp_path / "out", alone)


SLURM = {
    "sbatch": '[[ $# == 1 ]] || SLURM_ARRAY_TASK_ID=0 RUN_OFFSET=0 bash "$2" > {log} 2>&1; echo job 7',
    "srun": 'while [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done; exec "$@"',
    "scontrol": "echo localhost",
}
"""What the programs of Slurm do as far as it is needed: the first job of an array, before sbatch returns; not the
second call, which only gathers statistics."""


def test_slurm(task, alone, tmp_path, monkeypatch):
    for name, text in SLURM.items():
        (tmp_path / name).write_text("#!/usr/bin/env bash\n" + text.replace("{log}", str(tmp_path / "log")) + "\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_NODELIST", "localhost")
    out = tmp_path / "out"
    assert not run_everywhere(replace(task, out=str(out)), executor="slurm", tasks=1, resources=ON_CPU)
    require_equal(out, alone)
    script = (out / LOGS / "launch_script.slurm").read_text()
    assert "#SBATCH --array=0-0%1" in script
    assert "#SBATCH --partition=any" in script


def test_slurm_needs_a_partition(task, tmp_path):
    with pytest.raises(ConfigError, match="where to run"):
        run_everywhere(replace(task, out=str(tmp_path / "out")), executor="slurm", tasks=1)
