"""Every reply that was paid for, one line each, written before it is used: what a killed run goes on from."""

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any

from latent2pixel.data.prompting.language_model import Question, Reply
from latent2pixel.errors import StateError


def question_key(question: Question, *, model: str) -> str:
    """Return a digest of what a reply depends on, the server's address and the limit of its length aside."""
    parts = [model, question.system, question.user_message(), json.dumps(question.schema, sort_keys=True)]
    parts += [str(question.seed), str(question.temperature)]
    if question.picture is not None:
        parts.append(hashlib.sha256(question.picture).hexdigest())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class Journal:
    """An append-only file of replies.

    Args:
        path: JSON lines with key, task and the fields of ``Reply``. Half a last line, from a killed writer, is dropped.

    Raises:
        StateError: A line before the last is damaged, or another process writes here.
    """

    def __init__(self, path: Path) -> None:
        self._replies: dict[str, Reply] = {}
        self.by_task: Counter[str] = Counter()
        """Replies by task."""
        self.tokens_in = 0
        self.tokens_out = 0
        self.without_count = 0
        """Replies whose tokens the server did not tell: they are missing in the tokens."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: FileIO = path.open("ab+", buffering=0)
        try:
            _lock(self._file, path)
            self._file.seek(0)
            self._load(self._file.readall(), path)
        except StateError:
            self._file.close()
            raise

    def reply(self, key: str) -> Reply | None:
        """Return the reply to a question; None if there is none yet."""
        return self._replies.get(key)

    def add(self, key: str, reply: Reply, *, task: str) -> None:
        """Keep a reply: it is on the disk when this returns."""
        line = json.dumps({"key": key, "task": task, **asdict(reply)}, ensure_ascii=False)
        self._append(line.encode() + b"\n")
        self._count(key, reply, task)

    def close(self) -> None:
        """Let the next process write here."""
        self._file.close()

    def _count(self, key: str, reply: Reply, task: str) -> None:
        self._replies[key] = reply
        self.by_task[task] += 1
        self.tokens_in += reply.tokens_in or 0
        self.tokens_out += reply.tokens_out or 0
        self.without_count += reply.tokens_in is None or reply.tokens_out is None

    def _append(self, line: bytes) -> None:
        """Write a line whole or not at all: a full disk must not leave half of one between others."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) or 0 :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            raise

    def _load(self, content: bytes, path: Path) -> None:
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record: dict[str, Any] = json.loads(line)
                key, task = record.pop("key"), record.pop("task")
                self._count(key, Reply(**record), task)
            except (ValueError, KeyError, TypeError) as error:
                raise StateError(
                    f"Line {number} of {path} is damaged",
                    found=f"{line[:80]!r}: {error}",
                    expected="a reply with its key",
                    fix="Remove that line: its question is asked again.",
                ) from error


def _lock(file: FileIO, path: Path) -> None:
    """Keep a second process from paying for the same questions; the lock ends with the process."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StateError(
            "Another process writes replies into this folder",
            found=f"a lock on {path}",
            expected="one process a folder",
            fix="Wait for it or stop it; then the same command goes on.",
        ) from error
