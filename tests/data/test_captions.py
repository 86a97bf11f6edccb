"""Captions out of metadata that nobody has checked."""

import json
import re
from pathlib import Path

import pytest

from latent2pixel.data.captions import read_captions
from latent2pixel.data.real_image import usable_image
from latent2pixel.errors import DataError


def csv_folder(folder, text, *, name="metadata.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def read(folder, **options):
    return [(file.name, file.caption) for file in read_captions(folder, **options).files]


def test_the_released_training_format(tmp_path):
    folder = csv_folder(tmp_path, 'file_name,text\n1.png,"a fox, red"\nsub/2.png,"two\nlines ""quoted"""\n')
    assert read(folder) == [("1.png", "a fox, red"), ("sub/2.png", 'two\nlines "quoted"')]
    assert read_captions(folder).files[1].path == tmp_path.resolve() / "sub" / "2.png"


@pytest.mark.parametrize("key", ["prompt", "caption", "text"])
@pytest.mark.parametrize("file_key", ["file_name", "image"])
def test_names_of_columns_in_both_formats(tmp_path, key, file_key):
    assert read(csv_folder(tmp_path / "csv", f"{file_key},{key}\n1.png,a fox\n")) == [("1.png", "a fox")]
    line = json.dumps({file_key: "1.png", key: " a fox "}) + "\n"
    assert read(csv_folder(tmp_path / "jsonl", line, name="metadata.jsonl")) == [("1.png", "a fox")]


def test_prompt_comes_before_text_unless_another_is_named(tmp_path):
    folder = csv_folder(tmp_path, "file_name,text,prompt,alt\n1.png,t,p,a\n")
    assert read(folder) == [("1.png", "p")]
    assert read(folder, caption_key="alt") == [("1.png", "a")]
    assert read_captions(folder).unused == ["text", "alt"]


def test_spreadsheets_write_a_byte_order_mark(tmp_path):
    assert read(csv_folder(tmp_path, b"\xef\xbb\xbffile_name,text\r\n1.png,\xe7\x8b\x90\r\n")) == [("1.png", "狐")]


def test_sub_folders_have_metadata_of_their_own(tmp_path):
    csv_folder(tmp_path / "b", "file_name,text\n1.png,in b\n")
    csv_folder(tmp_path / "a", '{"file_name": "1.png", "text": "in a"}\n', name="metadata.jsonl")
    csv_folder(tmp_path / ".hidden", "file_name,text\n1.png,no\n")
    assert read(tmp_path) == [("a/1.png", "in a"), ("b/1.png", "in b")]


def test_optional_columns_are_taken_over(tmp_path):
    folder = csv_folder(tmp_path, "file_name,text,major_class,sub_class,id,licence\n1.png,x,nature,,7,cc0-1.0\n")
    assert dict(read_captions(folder).files[0].fields) == {"major_class": "nature", "id": "7", "licence": "cc0-1.0"}


def test_rows_that_cannot_be_used_say_why(tmp_path):
    folder = csv_folder(tmp_path, "file_name,text\n,no name\n1.png,a,b,c\n2.png\n")
    files = read_captions(folder).files
    assert [file.fault for file in files] == ["no file name", "more cells than the header has columns", None]
    assert files[2].caption == ""


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "sub/../../secret.png",
        "sub/../1.png",
        "/etc/passwd",
        "..\\secret.png",
        "C:\\secret.png",
        "C:secret.png",
        "\\\\host\\share\\secret.png",
        "//host/share/secret.png",
        "a\0.png",
    ],
)
def test_names_that_lead_out_end_the_import(tmp_path, name):
    line = json.dumps({"file_name": "1.png", "text": "x"}) + "\n" + json.dumps({"file_name": name, "text": "x"}) + "\n"
    with pytest.raises(DataError, match="leads out") as error:
        read_captions(csv_folder(tmp_path, line, name="metadata.jsonl"), follow_links=True)
    assert error.value.found.startswith("row 2 of metadata.jsonl")


def test_links_that_lead_out_are_refused_unless_they_are_trusted(tmp_path):
    outside = tmp_path / "blobs"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"")
    folder = csv_folder(tmp_path / "in", "file_name,text\n1.png,x\n")
    (folder / "1.png").symlink_to(outside / "secret.png")
    with pytest.raises(DataError, match="leads out") as error:
        read_captions(folder)
    assert "symbolic link" in error.value.found
    assert read_captions(folder, follow_links=True).files[0].path == outside / "secret.png"


def test_a_linked_folder_that_leads_out_is_refused(tmp_path):
    (tmp_path / "outside").mkdir()
    folder = csv_folder(tmp_path / "in", "file_name,text\nsub/1.png,x\n")
    (folder / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="leads out"):
        read_captions(folder)


def test_names_that_lead_nowhere_are_told(tmp_path):
    names = ["loop.png", "half \ud83d pair.png", "n" * 5000 + ".png"]
    (tmp_path / "loop.png").symlink_to("loop.png")
    lines = "".join(json.dumps({"file_name": name, "text": "x"}) + "\n" for name in names)
    files = read_captions(csv_folder(tmp_path, lines, name="metadata.jsonl")).files
    for file in files:
        with pytest.raises(DataError) as error:
            raise DataError("", found=file.fault, expected="", fix="") if file.fault else usable_image(file.path)
        assert re.search("leads nowhere|cannot be read|no such file", error.value.found)


def test_links_inside_and_a_linked_root_are_no_matter(tmp_path):
    folder = csv_folder(tmp_path / "in", "file_name,text\n1.png,x\n")
    (folder / "2.png").write_bytes(b"")
    (folder / "1.png").symlink_to("2.png")
    (tmp_path / "link").symlink_to(folder)
    assert read(tmp_path / "link") == [("1.png", "x")]


def test_missing_columns_are_named_with_the_nearest(tmp_path):
    with pytest.raises(DataError) as error:
        read_captions(csv_folder(tmp_path / "a", "file_name,promt\n1.png,x\n"))
    assert "'promt'" in error.value.fix
    with pytest.raises(DataError) as error:
        read_captions(csv_folder(tmp_path / "b", "filename,text\n1.png,x\n"))
    assert error.value.expected == "file_name or image"
    with pytest.raises(DataError) as error:
        read_captions(csv_folder(tmp_path / "c", "file_name,text\n1.png,x\n"), caption_key="alt")
    assert error.value.expected == "alt"


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b'file_name,text\n1.png,"open\n', b"file_name,text\n", b""])
def test_unreadable_and_empty_metadata(tmp_path, text):
    with pytest.raises(DataError):
        read_captions(csv_folder(tmp_path, text))


def test_a_folder_without_metadata(tmp_path):
    for folder in (tmp_path, Path(tmp_path / "missing")):
        with pytest.raises(DataError, match="no folder of images with captions"):
            read_captions(folder)
