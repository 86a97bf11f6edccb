"""Folders and files appear whole or not at all, whatever ends the writing.

A full disk is the operating system's own: ``os`` calls raise what the kernel would, or ``/dev/full`` does.
"""

import contextlib
import errno
import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from latent2pixel.errors import OutputFolderError
from latent2pixel.io.new_folder import new_folder, write_file


@pytest.mark.parametrize("existing", [False, True], ids=["new", "empty"])
def test_folder_appears_when_the_block_ends(tmp_path, existing):
    path = tmp_path / "deep" / "out"
    if existing:
        path.mkdir(parents=True)
    with new_folder(path) as part:
        (part / "a").write_text("x")
        assert not (path / "a").exists()
    assert (path / "a").read_text() == "x"
    assert list(path.parent.iterdir()) == [path]


def fill(path, ending):
    """Write one file into a new folder, then do what ends the block."""
    with new_folder(path) as part:
        (part / "ours").write_text("x")
        ending(part)


def failing(error):
    """Return an ending that raises."""

    def ending(part):
        raise error

    return ending


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_nothing_stays_when_the_block_fails(tmp_path, error):
    with pytest.raises(error):
        fill(tmp_path / "out", failing(error))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ends_well", [True, False])
def test_replaced_folder_stays_until_the_new_one_is_whole(tmp_path, ends_well):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with contextlib.suppress(KeyboardInterrupt), new_folder(tmp_path / "out", replace=True) as part:
        (part / "newer").write_text("y")
        if not ends_well:
            raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["newer" if ends_well else "mine"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_full_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(OutputFolderError, match="holds something"), new_folder(tmp_path / "out"):
        pytest.fail("the block ran")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_folder_that_another_process_filled_meanwhile_is_kept(tmp_path):
    with pytest.raises(OutputFolderError, match="holds something"):
        fill(tmp_path / "out", lambda part: write_file(tmp_path / "out" / "theirs", "x"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_says_so_and_leaves_nothing(tmp_path, number):
    with pytest.raises(OutputFolderError, match="disk is full") as error:
        fill(tmp_path / "out", failing(OSError(number, "No space left on device")))
    assert "GB free" in error.value.found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_under_a_plain_write(tmp_path):
    def write_to_device(part):
        (part / "device").symlink_to("/dev/full")
        (part / "device").write_text("x")

    with pytest.raises(OutputFolderError, match="disk is full"):
        fill(tmp_path / "out", write_to_device)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's file size limit")
def test_full_disk_inside_safetensors(tmp_path):
    """A file size limit stands in for the disk: safetensors hides both errors in a text of its own."""
    process = multiprocessing.get_context("spawn").Process(target=_save_beyond_limit, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert list(tmp_path.iterdir()) == []


def _save_beyond_limit(folder: Path) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    with pytest.raises(OutputFolderError, match="disk is full"), new_folder(folder / "out") as part:
        save_file({"x": torch.zeros(2**16)}, part / "x.safetensors")


def test_full_disk_before_the_folder_exists(tmp_path, monkeypatch):
    def full(self, *args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OutputFolderError, match="disk is full"):
        write_file(tmp_path / "a" / "b" / "c.txt", "x")


def test_place_that_cannot_be_written(tmp_path):
    """A file in the place of a folder: removing what was never made must not hide the reason."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputFolderError, match="cannot be written"), new_folder(tmp_path / "file" / "out"):
        pytest.fail("the block ran")
    with pytest.raises(OutputFolderError, match="cannot be written"):
        write_file(tmp_path / "file" / "out.txt", "x")
    with pytest.raises(OutputFolderError, match="cannot be written"):
        write_file(tmp_path, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", ["größe\n", b"\x00\xff"])
def test_file_is_replaced_whole(tmp_path, content):
    path = tmp_path / "deep" / "file"
    write_file(path, "before")
    write_file(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_failed_replacement_keeps_the_file_before(tmp_path, monkeypatch):
    write_file(tmp_path / "file", "before")

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputFolderError, match="disk is full"):
        write_file(tmp_path / "file", "after")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_processes_may_write_the_same_file_at_once(tmp_path):
    """Ranks that start together write one manifest; with one shared temporary name, two of three used to crash."""
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(tmp_path / "manifest.json", str(rank))) for rank in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def _write_often(path: Path, text: str) -> None:
    for _ in range(200):
        write_file(path, text * 5000)
