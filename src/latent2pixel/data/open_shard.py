"""A shard in the making: every finished batch is kept, whenever the process ends, and only one process adds to it.

In ``.shard-NNNNN.partial`` stand the images, a journal with one record a line, and the claim of the process that holds
it. An image counts once its line is in the journal, and the line is written after the image. The folder takes its name
``shard-NNNNN`` once ``metadata.jsonl`` is written.
"""

import errno
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent2pixel.data.shard_claim import BEAT_S, FREE, Watch, claims_of, own_claim
from latent2pixel.io.durable import append_durably, sync_folder, write_durably
from latent2pixel.io.new_folder import clear_disk_errors

if TYPE_CHECKING:
    from PIL.Image import Image

METADATA, REJECTED, JOURNAL = "metadata.jsonl", "rejected.jsonl", ".journal.jsonl"
NUM_WRITERS = 8
"""Images of a batch compressed and written at a time; Pillow lets other threads compute while it compresses."""


class ShardLostError(Exception):
    """Another process has taken this one for dead and goes on with the shard. No user's mistake: let go of it."""


class OpenShard:
    """A shard in the making that this process holds; made by ``take_shard``.

    Args:
        path: Where the finished shard will stand.
        folder: Where it is made.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self._folder, self._claim = path, folder, folder / own_claim()
        self.records: dict[str, dict[str, Any]] = {}
        """What the journal holds, by file name."""
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"claim of {path.name}", daemon=True)

    @contextmanager
    def held(self) -> Iterator["OpenShard"]:
        """Hold the shard through a block; unless it is finished by then, others may go on with it.

        Raises:
            ShardLostError: Another process has taken it over.
            OutputFolderError: The disk is full, or cannot be written any more.
        """
        self._heart.start()
        try:
            with clear_disk_errors(self.path, left="finished images were kept"):
                self.records = _read_journal(self._folder)
                yield self
        except FileNotFoundError as error:
            if self._claim.exists():
                raise
            raise ShardLostError(str(self.path)) from error
        finally:
            self._ended.set()
            self._heart.join()
            self._give_back()

    def add(self, images: Sequence["Image"], records: Sequence[Mapping[str, Any]]) -> None:
        """Keep a batch of images, as PNG under the ``file_name`` of their records."""
        self._touch()
        paths = [self._folder / record["file_name"] for record in records]
        with ThreadPoolExecutor(NUM_WRITERS) as pool:
            list(pool.map(_write_png, paths, images))
        sync_folder(self._folder)
        append_durably(self._folder / JOURNAL, _lines(records))
        self.records |= {record["file_name"]: dict(record) for record in records}

    def finish(self, kept: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, Any]] = ()) -> None:
        """Give the shard its name; images without a place among the kept records are removed, their records stay."""
        self._touch()
        for name, records in ((METADATA, kept), (REJECTED, rejected)):
            if records:
                write_durably(self._folder / name, _lines(records))
        wanted = {METADATA, REJECTED, JOURNAL, self._claim.name, *(str(record["file_name"]) for record in kept)}
        for file in self._folder.iterdir():
            if file.name not in wanted:
                file.unlink(missing_ok=True)
        sync_folder(self._folder)
        self._folder.rename(self.path)
        sync_folder(self.path.parent)
        # Only now: whoever found the folder without a claim would take it for an earlier version's leavings.
        tidy(self.path)

    def _touch(self) -> None:
        """Show that this process lives, and find out whether it still holds the shard."""
        try:
            os.utime(self._claim)
        except FileNotFoundError as error:
            raise ShardLostError(str(self.path)) from error

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                os.utime(self._claim)
            except FileNotFoundError:  # finished, or lost: what is written next finds out
                return

    def _give_back(self) -> None:
        if not self._claim.exists():
            return
        if self.records:
            with suppress(FileNotFoundError):  # taken over just now
                self._claim.rename(self._claim.with_name(FREE))
        else:
            # A call that made nothing leaves nothing.
            shutil.rmtree(self._folder, ignore_errors=True)


def take_shard(path: Path, watch: Watch) -> OpenShard | None:
    """Return a shard that is not finished, to go on with; None while another process holds it, or has just taken it.

    Raises:
        OutputFolderError: The folder cannot be written, or the disk is full.
    """
    folder = path.with_name(f".{path.name}.partial")
    with clear_disk_errors(path):
        taken = _take_over(folder, watch) if folder.exists() else _begin(folder)
        if taken and path.exists():
            # Finished by its holder between the caller's look and the beginning of another.
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return OpenShard(path, folder) if taken else None


def tidy(path: Path) -> None:
    """Remove what processes that were killed left in and beside a finished shard."""
    for file in (path / JOURNAL, *claims_of(path)):
        file.unlink(missing_ok=True)
    for folder in path.parent.glob(f".{path.name}.partial*"):
        shutil.rmtree(folder, ignore_errors=True)


def _begin(folder: Path) -> bool:
    """Let the folder appear with this process's claim in it; False if another process was quicker."""
    claim = own_claim()
    born = folder.with_name(f"{folder.name}.{claim}")
    shutil.rmtree(born, ignore_errors=True)
    born.mkdir(parents=True)
    (born / claim).touch()
    try:
        born.rename(folder)
    except OSError as error:
        # There is another one, or it is finished by now and what was beside it removed.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
        shutil.rmtree(born, ignore_errors=True)
        return False
    return True


def _take_over(folder: Path, watch: Watch) -> bool:
    """Put this process's claim in the place of one whose holder is gone."""
    claims = claims_of(folder)
    try:
        if not claims:
            # An earlier version kept no journal: what it has made cannot be told from what it was making.
            leavings = folder.with_name(f"{folder.name}.{own_claim()}")
            folder.rename(leavings)
            shutil.rmtree(leavings)
            return _begin(folder)
        if not watch.is_abandoned(claims[0]):
            return False
        claims[0].rename(folder / own_claim())
    except FileNotFoundError:  # another process was quicker
        return False
    return True


def _read_journal(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of finished images, also of those that ``finish`` had begun to remove.

    A last line that was cut off is removed.
    """
    journal = folder / JOURNAL
    if not journal.exists():
        return {}
    content = journal.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(journal, len(whole))
    # Not splitlines() of text: it also splits at U+2028 and others, which JSON allows inside a string.
    return {record["file_name"]: record for record in map(json.loads, whole.splitlines())}


def _write_png(path: Path, image: "Image") -> None:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    write_durably(path, encoded.getvalue())


def _lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
