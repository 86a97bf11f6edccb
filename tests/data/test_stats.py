"""The numbers of a data folder, counted by hand here."""

import json

import pytest
from tests.data.pictures import write_images

from latent2pixel.data.data_folder import DataFolder
from latent2pixel.data.pack import pack
from latent2pixel.data.stats import collect_stats, kind_of_reason, top
from latent2pixel.data.text_stats import text_stats
from latent2pixel.errors import DataError, StateError
from latent2pixel.io.images import Image
from latent2pixel.io.records import write_records

TAXONOMY = """
version: 1
classes:
  - name: nature
    share: 3
    sub_classes:
      - {name: animals, share: 2}
      - {name: plants, share: 1}
  - name: people
    share: 1
    sub_classes:
      - {name: portrait}
"""


def prompt(number, text, major="nature", sub="animals", **fields):
    return {"id": str(number), "prompt": text, "major_class": major, "sub_class": sub} | fields


@pytest.fixture
def prompts(tmp_path):
    """Four kept, five rejected."""
    folder = tmp_path / "data" / "prompts"
    kept = [
        prompt(0, "A red fox " + "x" * 240, kind="detailed", language="en"),
        prompt(1, "A red fox sleeps.", kind="simple", language="en"),
        prompt(2, "a RED fox, sleeps", "people", "portrait", kind="simple", language="en"),
        prompt(3, "一只红色的狐狸在雪地里", "people", "portrait", kind="simple", language="zh"),
    ]
    rejected = [
        prompt(4, "x", stage="duplicate", reason="duplicate of 1"),
        prompt(5, "x", stage="duplicate", reason="duplicate of 0"),
        prompt(6, "x", stage="format", reason="format: 1500 characters, more than 1200"),
        prompt(7, "x", stage="format", reason="format: the quality tag '8k'"),
        prompt(8, "x", stage="made up", reason="because"),
    ]
    write_records(folder / "prompts.jsonl", kept)
    write_records(folder / "rejected.jsonl", rejected)
    manifest = {"settings": {"backend": "world", "steps": [1]}, "report": {"tokens": 7, "rejected": {"format": 2}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "taxonomy.yaml").write_text(TAXONOMY)
    return folder


def test_the_funnel_counts_stages_in_order_and_reasons_together(prompts):
    stats = collect_stats(prompts).prompts
    assert (stats.written, stats.kept, stats.rejected) == (9, 4, 5)
    assert [(stage.stage, stage.rejected, stage.left) for stage in stats.funnel] == [
        ("format", 2, 7), ("duplicate", 2, 5), ("made up", 1, 4)
    ]  # fmt: skip
    assert stats.funnel[1].reasons == {"duplicate of …": 2}
    assert stats.funnel[0].reasons == {"format: the quality tag …": 1, "format: … characters, more than …": 1}
    assert stats.made_by == {"backend": "world", "tokens": 7}


def test_shares_stand_beside_those_of_the_taxonomy(prompts):
    write_images(prompts.parent / "images", num=3)
    rows = {(row.major_class, row.sub_class): row for row in collect_stats(prompts.parent).classes}
    assert list(rows) == [("nature", "animals"), ("nature", "plants"), ("people", "portrait")]
    found = {key[1]: (row.prompts, row.images, row.share, row.target) for key, row in rows.items()}
    assert found == {"animals": (2, 3, 0.5, 0.5), "plants": (0, 0, 0.0, 0.25), "portrait": (2, 0, 0.5, 0.25)}


def test_texts(prompts):
    texts = collect_stats(prompts).texts
    assert (texts.count, texts.shortest, texts.longest, texts.median) == (4, 11, 250, 17)
    assert texts.in_band == 0.25
    assert dict(texts.lengths) | {} == {first: {0: 3, 250: 1}.get(first, 0) for first in range(0, 275, 25)}
    assert (texts.duplicates, texts.duplicate_rate) == (1, 0.25)
    assert texts.languages == {"en": 3, "zh": 1}
    assert texts.kinds == {"simple": 3, "detailed": 1}
    assert [(opener.text, opener.count) for opener in texts.openers] == [("a red fox", 2)]


def test_chinese_texts_have_openers_of_characters():
    found = text_stats(["一只红色的狐狸", "一只红色的猫"], languages=["zh"] * 2, kinds=[""] * 2).openers
    assert [(opener.text, opener.count, opener.share) for opener in found] == [("一只红色", 2, 1.0)]


def test_the_band_has_two_ends():
    texts = ["x" * length for length in (199, 200, 350, 351)]
    assert text_stats(texts, languages=[], kinds=[]).in_band == 0.5


def test_long_texts_stand_in_the_last_bar():
    lengths = dict(text_stats(["x" * 999, "x" * 1000, "x" * 90_000], languages=[], kinds=[]).lengths)
    assert (lengths[975], lengths[1000], max(lengths)) == (1, 2, 1000)


def test_images(tmp_path):
    write_images(tmp_path, num=3)
    write_images(tmp_path, num=2, shard="shard-00001", licence="", origin="real", width=48)
    write_images(tmp_path, num=1, shard="shard-00002", width=None)
    skipped = [{"file": "a", "reason": "duplicate: the same picture as a b.png"}] * 2
    write_records(tmp_path / "skipped.jsonl", [*skipped, {"file": "c", "reason": "no caption"}])
    curated = [{"file_name": "d.png", "score": 0.1, "reason": "score below 0.5"}]
    write_records(tmp_path / "shard-00001" / "rejected.jsonl", curated)
    images = collect_stats(tmp_path).images
    assert (images.images, images.prompts) == (6, 3)
    assert images.images_per_prompt == {"1": 1, "2": 1, "3": 1}
    assert images.sizes == {"24 x 16": 4, "48 x 16": 2}
    assert images.origins == {"source": 4, "real": 2}
    assert images.sources == {"owner/model @ abc": 6}
    assert images.licences == {"apache-2.0": 4, "not recorded": 2}
    assert images.skipped == {"duplicate: the same picture as …": 2, "no caption": 1, "score below …": 1}


def test_older_folders_lack_most_fields(tmp_path):
    write_images(tmp_path, num=2)
    records = [{"file_name": f"00000{number}.png", "prompt": "a fox"} for number in range(2)]
    records.append({"file_name": "missing.png", "prompt": "a fox"})
    write_records(tmp_path / "shard-00000" / "metadata.jsonl", records)
    stats = collect_stats(tmp_path)
    assert stats.prompts is None
    assert stats.images.sizes == {"24 x 16": 2, "unreadable": 1}
    assert stats.images.licences == {"not recorded": 3}
    assert stats.texts.count == 1
    assert [(row.major_class, row.images) for row in stats.classes] == [("not recorded", 3)]


def test_a_packed_set_counts_like_its_folder(tmp_path):
    write_images(tmp_path / "in", num=5)
    pack(tmp_path / "in", tmp_path / "out", num_shards=2)
    loose, packed = collect_stats(tmp_path / "in"), collect_stats(tmp_path / "out")
    assert (packed.images, packed.texts, packed.classes) == (loose.images, loose.texts, loose.classes)


def test_nothing_is_decoded(tmp_path, monkeypatch):
    write_images(tmp_path, num=3, width=None)

    def refuse(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "convert", refuse)
    assert collect_stats(tmp_path).images.sizes == {"24 x 16": 3}


def test_parts_of_a_folder(tmp_path):
    write_images(tmp_path / "images")
    assert DataFolder.find(tmp_path) == DataFolder(prompts=None, images=tmp_path / "images")
    write_records(tmp_path / "prompts" / "prompts.jsonl", [])
    assert DataFolder.find(tmp_path) == DataFolder(prompts=tmp_path / "prompts", images=tmp_path / "images")
    assert DataFolder.find(tmp_path / "prompts") == DataFolder(prompts=tmp_path / "prompts", images=None)
    for folder in (tmp_path / "images" / "shard-00009", tmp_path / "missing"):
        with pytest.raises(DataError, match="holds no data"):
            DataFolder.find(folder)


def test_no_prompt_is_left(tmp_path):
    write_records(tmp_path / "prompts.jsonl", [])
    stats = collect_stats(tmp_path)
    assert (stats.texts.count, stats.texts.in_band, stats.classes) == (0, 0.0, [])


def test_a_damaged_manifest_is_named(prompts):
    (prompts / "manifest.json").write_text("{")
    with pytest.raises(StateError, match="manifest is damaged"):
        collect_stats(prompts)


def test_reasons_and_rare_ones():
    assert kind_of_reason("24 x 16 px, smaller than 33 x 33") == "… x … px, smaller than … x …"
    assert kind_of_reason("a quote \"it's\" and 'b'") == "a quote … and …"
    assert top({"a": 1, "b": 5, "c": 1, "d": 2}, 2) == {"b": 5, "d": 2, "other reasons": 2}
    assert list(top({"a": 1, "c": 2, "b": 2})) == ["b", "c", "a"]
