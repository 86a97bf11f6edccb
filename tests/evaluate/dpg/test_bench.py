import hashlib
import io
import shlex
import subprocess
import tarfile

import pytest
from tests.evaluate.dpg.small_bench import PROMPTS, ROWS, asks, small_bench, write_bench

from latent2pixel.errors import DataError
from latent2pixel.evaluate.dpg.bench import (
    COMMIT,
    OFFICIAL_GIT_ID,
    OFFICIAL_PROMPTS_SHA256,
    OFFICIAL_URL,
    digest_of_prompts,
    load_dpg,
    oddities,
)


def test_table_and_prompts_are_read_as_they_stand(tmp_path):
    bench = small_bench(tmp_path)
    assert [(row.item, row.number, row.category, row.text) for row in bench.rows] == [
        (item, number, category, asks(colour)) for item, number, _, category, colour in ROWS
    ]
    assert [row.parents for row in bench.rows] == [(0,), (1,), (0,), (1,), (2,), (0,)]
    assert bench.prompts == PROMPTS  # white space at their ends too
    assert not bench.is_official
    assert oddities(bench) == ()


def test_fields_with_commas_line_breaks_and_other_separators(tmp_path):
    path = write_bench(tmp_path)
    head = path.read_text().splitlines()[0]
    row = 'a,"one, ""two""\nthree",,2.0,"1, 3",x,y,"entity - part (a, (b))","Is it\u2028so,\r\n""now""?"'
    path.write_bytes(f"\ufeff{head}\n{row}\n".encode())
    (question,) = load_dpg(path).rows
    assert (question.number, question.parents, question.category) == (2, (1, 3), "entity - part")
    assert question.text == 'Is it\u2028so,\r\n"now"?'


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("a,,,one,0,,,t,q?", "proposition_id 'one'"),
        ("a,,,1.5,0,,,t,q?", "proposition_id '1.5'"),
        ("a,,,1,,,,t,q?", "dependency ''"),
        ('a,,,1,"1;2",,,t,q?', "dependency '1;2'"),
        ("a,,,1,-1,,,t,q?", "dependency '-1'"),
        (",,,1,0,,,t,q?", "'item_id': ''"),
        ("a,,,1,0,,,t, ", "'question_natural_language': ' '"),
        ("a,,,1,0,,,t", "'question_natural_language': None"),
        ("a,,,1,0,,,t,q?,more", "'more'"),
        (None, "no row"),
    ],
)
def test_a_row_that_is_no_question_is_refused_with_its_line(tmp_path, row, found):
    path = write_bench(tmp_path)
    head = path.read_text().splitlines()[0]
    path.write_text(f"{head}\n" + ("" if row is None else f"b,,,1,0,,,t,q?\n{row}\n"))
    with pytest.raises(DataError, match="cannot be read" if row is None else r"own\.csv, line 3") as error:
        load_dpg(path)
    assert found in error.value.found


def test_a_table_without_a_column_is_refused(tmp_path):
    path = write_bench(tmp_path)
    path.write_text("item_id,tuple\na,b\n")
    with pytest.raises(DataError) as error:
        load_dpg(path)
    assert error.value.found == "no column proposition_id, dependency, question_natural_language"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="table of questions cannot be read"):
        load_dpg(path)


def test_prompts_that_cannot_be_read_are_refused(tmp_path):
    path = write_bench(tmp_path)
    (tmp_path / "prompts" / "7.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="A prompt cannot be read"):
        load_dpg(path)
    for file in (tmp_path / "prompts").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="There are no prompts"):
        load_dpg(path)


def test_what_is_odd_is_told_and_not_refused(tmp_path):
    rows = [*ROWS, ("7", 1, "4, 5", "global -", "red"), ("8", 1, "0", "global -", "red")]
    assert oddities(small_bench(tmp_path, rows=rows, prompts={**PROMPTS, "9": "Nine."})) == (
        "7: question 1 depends on 4, 5, which is not there",
        "7: several questions 1, the last one counts",
        "8: questions, but no prompt",
        "9: a prompt, but no questions",
    )


def test_a_missing_file_gives_the_command_that_brings_it(tmp_path):
    """The command is run, but for the download: an archive of the repository's form stands in for it."""
    place = tmp_path / "there" / "dpg_bench.csv"
    with pytest.raises(DataError, match="DPG-Bench is missing") as error:
        load_dpg(place)
    command = error.value.fix.removeprefix("Run `").removesuffix("`.")
    assert f"curl -fL {OFFICIAL_URL}" in command
    assert COMMIT in OFFICIAL_URL
    archive = tmp_path / "archive.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("README.md", "dpg_bench/dpg_bench.csv", "dpg_bench/prompts/0.txt", "dpg_bench/dist_eval.sh"):
            entry = tarfile.TarInfo(f"ELLA-{COMMIT}/{name}")
            entry.size = len(name)
            tar.addfile(entry, io.BytesIO(name.encode()))
    offline = command.replace(f"curl -fL {OFFICIAL_URL}", f"cat {shlex.quote(str(archive))}")
    subprocess.run(offline, shell=True, check=True)
    assert place.read_text() == "dpg_bench/dpg_bench.csv"
    assert (place.parent / "prompts" / "0.txt").is_file()
    with pytest.raises(DataError, match="has the name of DPG-Bench's questions") as error:
        load_dpg(place)
    expected = subprocess.run(["git", "hash-object", str(place)], check=True, capture_output=True, text=True).stdout
    assert error.value.found.startswith(f"git id {expected.strip()}, sha256 of 1 prompts ")
    assert OFFICIAL_GIT_ID in error.value.expected
    assert OFFICIAL_PROMPTS_SHA256 in error.value.expected
    assert f"remove {place.parent / 'prompts'} and run `{command}`" in error.value.fix


def test_a_table_without_its_prompts_is_missing_too(tmp_path):
    path = write_bench(tmp_path)
    for file in (tmp_path / "prompts").iterdir():
        file.unlink()
    (tmp_path / "prompts").rmdir()
    with pytest.raises(DataError, match="missing") as error:
        load_dpg(path)
    assert error.value.found == f"no {tmp_path / 'prompts'}"


def test_the_digest_of_prompts_depends_on_names_and_content_alone():
    assert digest_of_prompts({"a": "x", "b": "y"}) == digest_of_prompts({"b": "y", "a": "x"})
    # In the order of file names, where "a.txt" comes behind "a-b.txt".
    assert digest_of_prompts({"a": "x", "a-b": "y"}) == hashlib.sha256(b"a-b.txt\0y\0a.txt\0x\0").hexdigest()
    others = ({"a": "x", "b": "z"}, {"a": "x", "c": "y"}, {"a": "x"})
    assert len({digest_of_prompts(each) for each in others}) == 3
