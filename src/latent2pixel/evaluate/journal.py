"""What has been scored so far, one line a picture: a killed run loses the picture in hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latent2pixel.io.durable import append_durably
from latent2pixel.io.new_folder import clear_disk_errors, write_file
from latent2pixel.io.records import read_records, write_records


class Journal:
    """Records of pictures, in a file that grows until all are there and then takes its final name.

    Args:
        results: File of a finished run, one JSON object a line; the growing one lies beside it.

    Raises:
        DataError: One of the files holds something else.
        OutputFolderError: Their folder cannot be made.
    """

    def __init__(self, results: Path) -> None:
        self._results = results
        self._growing = results.with_name(f"{results.name}.journal")
        self._records: dict[str, dict[str, Any]] = {}
        with clear_disk_errors(results):
            results.parent.mkdir(parents=True, exist_ok=True)
        if self._growing.is_file():
            _drop_torn_line(self._growing)
        for path in (results, self._growing):
            if path.is_file():
                self._records |= {record["digest"]: record for record in read_records(path) if "digest" in record}

    def find(self, digest: str) -> dict[str, Any] | None:
        """Return the record with that digest, if there is one."""
        return self._records.get(digest)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record, which must have a "digest"; it is on the disk when this returns.

        Raises:
            OutputFolderError: It cannot be written.
        """
        with clear_disk_errors(self._growing, left="what was scored before is kept"):
            append_durably(self._growing, (json.dumps(record, ensure_ascii=False) + "\n").encode())
        self._records[record["digest"]] = dict(record)

    def finish(self, records: list[dict[str, Any]]) -> None:
        """Write the final file, which appears whole or not at all, and remove the growing one.

        Raises:
            OutputFolderError: It cannot be written.
        """
        write_records(self._results, records)
        self._growing.unlink(missing_ok=True)


def _drop_torn_line(path: Path) -> None:
    """A kill in the middle of a write leaves a last line without its end; the next one would be glued to it."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_file(path, whole)
