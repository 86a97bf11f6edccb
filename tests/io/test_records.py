"""One JSON object a line, whatever the text holds."""

import pytest

from latent2pixel.errors import DataError
from latent2pixel.io.records import read_records, write_records


@pytest.mark.parametrize("text", ["", 'a "quoted" word', "two\nlines\r", "größe 红", "a\u2028b\u2029c\x85d\x1ce\x0c"])
def test_round_trip(tmp_path, text):
    """Unicode has line ends that JSON leaves as they are: reading must not split a record there."""
    records = [{"prompt": text, "seed": 3}, {"prompt": "next", "nested": {"a": [1, None]}}]
    write_records(tmp_path / "r.jsonl", records)
    assert read_records(tmp_path / "r.jsonl") == records


def test_empty_lines_and_windows_line_ends(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(b'{"a": 1}\r\n\r\n\n{"a": 2}')
    assert read_records(tmp_path / "r.jsonl") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("line", ["{bad", "[1]", "3", '{"a": 1} {"a": 2}'])
def test_bad_line_is_named_by_its_number(tmp_path, line):
    (tmp_path / "r.jsonl").write_text('{"a": 1}\n\n' + line + "\n")
    with pytest.raises(DataError, match=r"Line 3 of .*r\.jsonl"):
        read_records(tmp_path / "r.jsonl")


def test_file_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x80")
    for name in ("missing.jsonl", "binary.jsonl", "."):
        with pytest.raises(DataError, match="cannot be read"):
            read_records(tmp_path / name)
