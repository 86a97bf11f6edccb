"""The report is one complete HTML file that shows what it was given."""

import dataclasses
import json
import random
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from latent2pixel.report import CostRow, ImagePair, ReportContent, Stage, write_report
from latent2pixel.report.html import _cost_groups, _duration

VOID = {"meta", "img", "br", "hr", "input", "link", "path", "use", "rect"}


class Checker(HTMLParser):
    """Collects what a browser would fetch, ids and text; fails at a tag that closes another."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open_tags, self.addresses, self.ids, self.tags, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open_tags.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def score(value):
    part = {"score": value, "standard_error": 0.031, "chance": 0.07, "num_images": 20, "num_captions": 10}
    return part | {"tasks": {"colors": dict(part), "two_object": part | {"standard_error": float("nan")}}}


@pytest.fixture(scope="module")
def content():
    rng = np.random.default_rng(0)
    pairs = tuple(
        ImagePair(
            caption=caption,
            source=rng.integers(0, 255, (64, 64, 3), np.uint8),
            pixel=rng.integers(0, 255, (size, size, 3), np.uint8),
        )
        for caption, size in (("a red circle", 64), ("three <b>squares</b> & a star", 256))
    )
    return ReportContent(
        title="A small transfer",
        source_name="miniature",
        pairs=pairs,
        source_score=score(0.903),
        pixel_score=score(0.812),
        retention=0.899,
        retention_error=0.046,
        loss_curve=tuple((step, 1 / step) for step in range(1, 200)),
        score_curve=((50, 0.2, 0.05), (100, 0.4, 0.05), (150, 0.8, float("nan"))),
        stages=(Stage(name="synthesize", seconds=30), Stage(name="train", seconds=90)),
        costs=(
            CostRow(model="source", size_px=64, step_ms=10, decode_ms=20, image_ms=1200, peak_mb=200),
            CostRow(model="pixel", size_px=64, step_ms=11, decode_ms=1, image_ms=300, peak_mb=None),
        ),
        facts=(("recipe", "paper"), ("hardware", "two cores")),
    )


@pytest.fixture(scope="module")
def page(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = write_report(content, folder / "new" / "report.html")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def parse(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    return checker


def test_page_is_well_formed(page):
    checker = parse(page)
    assert checker.open_tags == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert page.lstrip().startswith("<!DOCTYPE html>")


def test_page_fetches_nothing(page):
    checker = parse(page)
    assert checker.addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in checker.addresses)
    assert not set(checker.tags) & {"script", "link", "iframe", "object", "embed"}
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page
    assert "http://" not in page
    assert "https://" not in page


def test_page_shows_its_content(page):
    text = " ".join(" ".join(parse(page).text).split())
    for expected in (
        "A small transfer", "miniature", "a red circle", "three <b>squares</b> & a star", "90",
        "0.812", "0.903", "0.070", "0.031", "two object", "synthesize", "train", "two cores", "1.20 s",
        "0.25\N{MULTIPLICATION SIGN}",
    ):  # fmt: skip
        assert expected in text, expected
    assert page.count("data:image/png") == 4
    assert page.count("<svg") == 2
    assert "nan" not in text


def test_only_small_pictures_are_shown_with_hard_pixels(page):
    images = re.findall(r"<img[^>]*>", page)
    assert ['class="small"' in image for image in images] == [True, True, True, False]


def test_same_content_gives_the_same_bytes(content, page, tmp_path):
    assert write_report(content, tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_page_without_optional_parts(content, tmp_path):
    bare = dataclasses.replace(content, pairs=(), loss_curve=(), score_curve=(), stages=(), costs=(), facts=())
    checker = parse(write_report(bare, tmp_path / "bare.html").read_text(encoding="utf-8"))
    assert checker.open_tags == []
    assert "svg" not in checker.tags


def test_score_record_comes_from_the_worlds_score(content, tmp_path):
    from latent2pixel.world.captions import heldout_captions
    from latent2pixel.world.levels import LEVELS
    from latent2pixel.world.render import render
    from latent2pixel.world.scenes import compose_scene
    from latent2pixel.world.score import score_images

    level, generator = LEVELS["easy"], random.Random(0)
    wanted = heldout_captions(level, 12)
    images = [render(compose_scene(level, caption, generator=generator), 64) for caption in wanted]
    record = json.loads(json.dumps(score_images(images, wanted).as_record()))
    path = write_report(dataclasses.replace(content, source_score=record, pixel_score=record), tmp_path / "r.html")
    assert "color attr" in path.read_text(encoding="utf-8")


def test_cost_groups_need_both_models(content):
    assert [size for size, _ in _cost_groups(content.costs)] == [64]
    assert _cost_groups(content.costs[:1]) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (95, "95 s"), (410, "6 min 50 s"), (720, "12 min"), (7500, "2 h 05 min")]
)
def test_duration_reads_as_spoken(seconds, text):
    assert _duration(seconds) == text
