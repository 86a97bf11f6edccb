"""A judge in a process and an environment of its own: mPLUG, whose packages fit beside no recent ones.

Shape letters: C channels (3, sRGB), H height, W width.
"""

import base64
import contextlib
import hashlib
import json
import queue
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from latent2pixel.errors import CheckpointError, ConfigError, EndpointError
from latent2pixel.evaluate.dpg import mplug_worker
from latent2pixel.io.images import png_of

Backend = Literal["modelscope", "dpg_evaluator"]
MODEL = "damo/mplug_visual-question-answering_coco_large_en"
"""On ModelScope, the official program's judge."""
MIRROR = "diffusion-bench/mplug_visual-question-answering_coco_large_en"
"""The same on the Hub, where the package dpg_evaluator takes it from."""
DOWNLOADS = {
    "modelscope": f"modelscope download --model {MODEL} --local_dir {{folder}}",
    "dpg_evaluator": f"hf download {MIRROR} --local-dir {{folder}}",
}
START_S, ANSWER_S = 900.0, 1800.0
"""Longest waits for the network to load, and for the answers about one grid: only a process that hangs should meet
them, so they leave room for a slow disk, and for minutes of answers on a CPU."""
TAIL = 2000
"""Characters of a process's last words that an error repeats."""


class WorkerJudge:
    """Asks a process that speaks the protocol of ``mplug_worker``; a context manager that ends it.

    Args:
        command: Starts the process.
        name: In the keys of results.
        facts: What decides its answers, beside what it tells of itself.
        start_s: Longest wait for its first line.
        answer_s: Longest wait for the answers about one grid.

    Raises:
        ConfigError: The process cannot be started.
        EndpointError: It ends or says nothing, or speaks another protocol.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        facts: dict[str, Any],
        start_s: float = START_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.name = name
        self._command, self._answer_s, self._number = list(command), answer_s, 0
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the judge)
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words
            )
        except OSError as error:
            self._words.close()
            raise ConfigError(
                "The judge's process cannot be started",
                found=str(error),
                expected=f"a program: {shlex.join(self._command)}",
                fix="Check the path of the Python of the judge's environment.",
            ) from error
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        with contextlib.ExitStack() as unless_it_starts:
            unless_it_starts.callback(self.close)
            told = self._read(start_s)
            if told.get("protocol") != mplug_worker.PROTOCOL:
                raise self._failure("speaks another protocol", str(told), f"protocol {mplug_worker.PROTOCOL}")
            unless_it_starts.pop_all()
        self._facts = {**facts, **{key: value for key, value in told.items() if key != "protocol"}}

    def __enter__(self) -> "WorkerJudge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, images_CHW: Sequence[Tensor], questions: Sequence[str]) -> list[list[str | None]]:
        """Return for each picture of sRGB bytes the answer to each question.

        Raises:
            EndpointError: The process has ended, reports an error or takes too long.
        """
        self._number += 1
        pictures = [base64.b64encode(png_of(image_CHW)).decode() for image_CHW in images_CHW]
        request = {"id": self._number, "pictures": pictures, "questions": list(questions)}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure("has ended", str(error), "a process that waits for questions") from error
        told = self._read(self._answer_s)
        answers: Any = told.get("answers")
        if told.get("id") != self._number or not _fits(answers, len(pictures), len(questions)):
            found = str(told.get("error") or told)[:TAIL]
            raise self._failure("does not answer", found, "an answer to every question about every picture")
        return answers  # type: ignore[no-any-return]  # of that form, by _fits

    def as_record(self) -> dict[str, Any]:
        """Return what decides its answers, as plain JSON values."""
        return {"name": self.name, **self._facts}

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._words.close()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # half a question that nobody will read
                self._process.stdin.close()

    def _listen(self) -> None:
        """Pass lines on; a thread of its own, since a pipe of Windows cannot be waited for with a limit."""
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(b"")

    def _read(self, wait_s: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=wait_s)
        except queue.Empty:
            raise self._failure("says nothing", f"no line within {wait_s:g} s", "a line") from None
        if not line:
            raise self._failure("has ended", f"exit code {self._process.wait()}", "a line")
        try:
            told = json.loads(line)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise self._failure("does not speak JSON", repr(line[:200]), "one JSON object a line")
        return told

    def _failure(self, what: str, found: str, expected: str) -> EndpointError:
        self._words.seek(0)
        last = self._words.read().decode(errors="replace").strip()[-TAIL:]
        return EndpointError(
            f"The judge's process {what}",
            found=f"{found}; its last words: {last or 'none'}",
            expected=expected,
            fix=f"See what `{shlex.join(self._command)}` says; what was judged is kept, the same call goes on.",
        )


def start_mplug(python: Path, weights: Path, *, backend: Backend = "modelscope", device: str = "cpu") -> WorkerJudge:
    """Start mPLUG in its own environment; nothing is downloaded.

    Args:
        python: The interpreter of the environment; docs/dpg-bench.md says how to make it.
        weights: Folder of the network.
        backend: "modelscope", the official program's, or "dpg_evaluator", for newer machines.
        device: As the backend calls it.

    Raises:
        ConfigError: There is no such interpreter.
        CheckpointError: There are no weights; the error has the command that downloads them.
        EndpointError: The network cannot be loaded.
    """
    if not python.is_file():
        raise ConfigError(
            "The environment of the judge mPLUG is missing",
            found=f"no file {python}",
            expected="the Python of an environment with modelscope or dpg_evaluator",
            fix="Make it as docs/dpg-bench.md says.",
        )
    if not weights.is_dir() or not any(weights.iterdir()):
        command = DOWNLOADS[backend].format(folder=weights)
        raise CheckpointError(
            "The weights of the judge mPLUG are missing",
            found=f"no folder {weights}, or an empty one",
            expected=f"what {MODEL} holds (its licence says Apache-2.0)",
            fix=f"Run `{command}` in the judge's environment, then the same again.",
        )
    script = str(Path(mplug_worker.__file__).resolve())
    settings = ["--backend", backend, "--model", str(weights), "--device", device]
    return WorkerJudge(
        [str(python), script, *settings],
        name=f"mplug-{backend}",
        # Which card of several does not matter, what kind of arithmetic does.
        facts={"weights": _digest(weights), "device": device.split(":")[0]},
    )


def _digest(folder: Path) -> str:
    """Return a SHA-256 of all files of a folder but hidden ones, such as a downloader's notes."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            with path.open("rb") as file:
                whole.update(f"{name.as_posix()}\0{_sha256(file)}\0".encode())
    return whole.hexdigest()


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while part := file.read(1 << 24):  # 16 MB: weights are larger than memory should be
        digest.update(part)
    return digest.hexdigest()


def _fits(answers: Any, num_pictures: int, num_questions: int) -> bool:
    return (
        isinstance(answers, list)
        and len(answers) == num_pictures
        and all(isinstance(told, list) and len(told) == num_questions for told in answers)
        and all(isinstance(answer, str) for told in answers for answer in told)
    )
