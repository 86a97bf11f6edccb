"""Headers and fingerprints against files that safetensors writes."""

import pytest
import torch
from safetensors.torch import save_file

from latent2pixel.io.new_folder import new_folder
from latent2pixel.io.safetensors_file import CHUNK_BYTES, NUM_CHUNKS, fingerprint, fingerprint_of_folders, read_header


def test_header(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(2, 3, dtype=torch.bfloat16), "y": torch.zeros(())}, path, metadata={"format": "pt"})
    header = read_header(path)
    assert {key: (value.dtype, value.shape) for key, value in header.items()} == {
        "x": ("BF16", (2, 3)),
        "y": ("F32", ()),
    }


@pytest.mark.parametrize("size", [10, CHUNK_BYTES + 1, NUM_CHUNKS * CHUNK_BYTES, NUM_CHUNKS * CHUNK_BYTES + 12345])
def test_fingerprint_sees_first_and_last_byte(tmp_path, size):
    path = tmp_path / "a"
    path.write_bytes(bytes(size))
    seen = {fingerprint(path)}
    for changed in {0, size - 1}:
        content = bytearray(size)
        content[changed:] = b"x" + content[changed + 1 :]
        path.write_bytes(content)
        seen.add(fingerprint(path))
    assert len(seen) == 3


def test_new_folder_removes_what_a_killed_process_left(tmp_path):
    stale = tmp_path / ".out.partial"
    stale.mkdir()
    (stale / "half").write_text("x")
    with new_folder(tmp_path / "out") as partial:
        assert list(partial.iterdir()) == []
        (partial / "whole").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_fingerprint_of_folders_sees_names_and_contents(tmp_path):
    def made(where, name="a.json", content="1"):
        (tmp_path / where / "text_encoder").mkdir(parents=True)
        (tmp_path / where / "text_encoder" / name).write_text(content)
        return fingerprint_of_folders([tmp_path / where / "text_encoder"])

    first = made("one")
    assert made("moved") == first
    assert made("renamed", name="b.json") != first
    assert made("changed", content="2") != first
