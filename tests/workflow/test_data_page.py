"""The page of a data set: complete in itself, honest, and deaf to what prompts say."""

import base64
import io
import random
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from tests.data.pictures import write_images

from latent2pixel.data.listing import image_records
from latent2pixel.data.stats import collect_stats
from latent2pixel.io.records import read_records, write_records
from latent2pixel.workflow import data_page
from latent2pixel.workflow.data_page import _drawn, write_stats_page

HOSTILE = "</figcaption><script>alert(1)</script><img src=x onerror=alert(2)> \" onload='alert(3)' {{ 7 * 7 }}"


class Page(HTMLParser):
    """Collects tags with their attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def page_of(folder, tmp_path, **options):
    path = write_stats_page(folder, collect_stats(folder), tmp_path / "page.html", **options)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    write_images(folder / "images", num=4)
    write_images(folder / "images", num=2, first=4, shard="shard-00001", major_class="people", sub_class="portrait")
    write_records(folder / "images" / "skipped.jsonl", [{"file": "x", "reason": "no caption"}])
    prompts = [
        {"id": str(number), "prompt": "A fox " + "sits " * 45, "major_class": "nature", "sub_class": "animals"}
        for number in range(3)
    ]
    write_records(folder / "prompts" / "prompts.jsonl", prompts)
    write_records(folder / "prompts" / "rejected.jsonl", [prompts[0] | {"stage": "safety", "reason": "safety: 'gore'"}])
    (folder / "prompts" / "manifest.json").write_text('{"settings": {"model": "some model"}, "report": {"cost": 1.25}}')
    taxonomy = "classes: [{name: nature, sub_classes: [{name: animals}, {name: plants}]}]"
    (folder / "prompts" / "taxonomy.yaml").write_text(taxonomy)
    return folder


def test_the_page_shows_all_numbers(data, tmp_path):
    page = page_of(data, tmp_path)
    for expected in (
        "3 prompts", "75 %", "safety", "safety: … (1)", "nature", "animals", "plants", "50.0 %",
        "66.7 %", "2 texts repeat another", "a fox sits", "apache-2.0", "owner/model @ abc", "24 x 16",
        "no caption", "nature / animals", "people / portrait", "a fox, number 5", "some model", "1.25",
    ):  # fmt: skip
        assert expected in page.words, expected
    assert [tag for tag, _ in page.tags].count("svg") == 1
    assert [tag for tag, _ in page.tags].count("img") == 6


def test_the_page_fetches_nothing(data, tmp_path):
    page = page_of(data, tmp_path)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith(("data:image/jpeg;base64,", "#"))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import", text)


def test_what_prompts_say_stays_text(data, tmp_path):
    """In prompts, classes, stages, reasons, licences, sources and kinds."""
    plain = page_of(data, tmp_path)
    shard = data / "images" / "shard-00000"
    fields = ("prompt", "major_class", "sub_class", "source", "licence", "kind", "language", "origin")
    write_records(
        shard / "metadata.jsonl",
        [record | dict.fromkeys(fields, HOSTILE) for record in read_records(shard / "metadata.jsonl")],
    )
    hostile = dict.fromkeys(("prompt", "major_class", "sub_class", "stage", "reason", "kind", "language"), HOSTILE)
    write_records(data / "prompts" / "prompts.jsonl", [hostile | {"id": str(number)} for number in range(2)])
    write_records(data / "prompts" / "rejected.jsonl", [hostile | {"id": "3"}])
    write_records(data / "images" / "skipped.jsonl", [{"file": HOSTILE, "reason": HOSTILE}])
    page = page_of(data, tmp_path)
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.words
    assert "{{ 7 * 7 }}" in page.words


def test_the_sheet_takes_from_every_class_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(data_page, "NUM_PICTURES", 6)
    write_images(tmp_path, num=40)
    write_images(tmp_path, num=2, shard="shard-00001", sub_class="plants")
    write_images(tmp_path, num=9, shard="shard-00002", major_class="people")
    drawn = _drawn(image_records(tmp_path), generator=random.Random(0))
    classes = [(one.fields["major_class"], one.fields["sub_class"]) for one in drawn]
    assert len(set(classes[:3])) == len(set(classes[3:6])) == 3
    shown = {
        record.fields["id"]
        for seed in range(60)
        for record in _drawn(image_records(tmp_path), generator=random.Random(seed))
        if record.file.parent.name == "shard-00000"
    }
    assert len(shown) == 40, "some images are never drawn"


def test_the_same_seed_draws_the_same_pictures(data, tmp_path, monkeypatch):
    monkeypatch.setattr(data_page, "NUM_PICTURES", 2)
    captions = [
        [attributes["alt"] for tag, attributes in page_of(data, tmp_path, seed=seed).tags if tag == "img"]
        for seed in (0, 0, *range(1, 8))
    ]
    assert captions[0] == captions[1]
    assert len({tuple(one) for one in captions}) > 1


def test_pictures_are_small_and_damaged_ones_are_left_out(data, tmp_path):
    shard = data / "images" / "shard-00000"
    Image.new("RGB", (2000, 1000), "red").save(shard / "000000.png")
    (shard / "000001.png").write_bytes(b"no picture")
    page = page_of(data, tmp_path)
    sources = {attributes["alt"]: attributes["src"] for tag, attributes in page.tags if tag == "img"}
    assert len(sources) == 5
    assert "a fox, number 1" not in sources
    small = Image.open(io.BytesIO(base64.b64decode(sources["a fox, number 0"].split(",")[1])))
    assert small.size == (224, 112)


def test_prompts_only_images_only_and_nothing_at_all(data, tmp_path):
    assert "img" not in {tag for tag, _ in page_of(data / "prompts", tmp_path).tags}
    assert "75" not in page_of(data / "images", tmp_path).words
    write_records(tmp_path / "empty" / "prompts.jsonl", [])
    assert "0 prompts" in page_of(tmp_path / "empty", tmp_path).words
