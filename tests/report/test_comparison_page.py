"""The page of two models side by side is complete, and shows first where they differ."""

import re

import pytest
import torch
from tests.report.test_html import parse

from latent2pixel.evaluate.compare import ComparisonSettings, compare_folders
from latent2pixel.evaluate.scores import Judged, PictureScore, scores_of
from latent2pixel.io.images import save_image
from latent2pixel.io.records import write_records
from latent2pixel.report.comparison_numbers import distance_rows, ratio_rows, spectrum_svg
from latent2pixel.report.comparison_page import ComparisonPage, ShownPair, write_comparison_page

NUMBER = 30
"""Pairs: more than a gallery shows."""


def score_of(side, index):
    """The source is right in all but every fifth, the pixel model in every second."""
    return float(index % 5 > 0 if side == "source" else index % 2 == 0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for side in ("source", "pixel"):
        records = []
        for index in range(NUMBER):
            # The source's pictures are all the same; the pixel model's leave it further with their number.
            image_CHW = 0.1 * torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
            if side == "pixel":
                image_CHW = image_CHW + index / NUMBER + 0.01 * torch.rand(3, 32, 32, generator=generator)
            save_image(folder / side / f"{index}.png", image_CHW)
            records.append({"file_name": f"{index}.png", "prompt": f"prompt <{index // 2:02d}>", "seed": index % 2})
        write_records(folder / side / "metadata.jsonl", records)
    return folder


@pytest.fixture(scope="module")
def compared(folders):
    return compare_folders(
        folders / "source", folders / "pixel", settings=ComparisonSettings(patch_size=8, num_crops=2)
    )


def content_of(folders, compared, *, sides=("source", "pixel"), judged=True):
    names = {"pixel": "pixel", "source": "source"} if len(sides) == 2 else {sides[0]: "pixel"}
    all_judged, pairs = [], []
    for index in range(NUMBER):
        prompt, seed = f"prompt <{index // 2:02d}>", index % 2
        files = {side: folders / names[side] / f"{index}.png" for side in sides}
        scores = {side: score_of(side, index) for side in sides}
        task = f"mine/task_{index % 3}"
        pictures = {
            side: PictureScore(
                file=files[side], task=task, score=scores[side], reason="" if scores[side] else "no <cat>"
            )
            for side in sides
        }
        all_judged.append(Judged(prompt=prompt, seed=seed, task=task, pictures=pictures))
        pairs.append(
            ShownPair(
                prompt=prompt,
                seed=seed,
                files=files,
                scores=scores if judged else {},
                reasons={side: one.reason for side, one in pictures.items()} if judged else {},
                distance=compared["pairs"][index]["distance"] if compared else None,
            )
        )
    record = {
        **{side: f"the {side}" for side in sides},
        "settings": {"suite": "mine"},
        "judges": {side: {"key": "mine/judge"} for side in sides} if judged else {},
        "manifests": {
            side: {"num_steps": 16, "source": f"maker of {side}"} if side == "pixel" else None for side in sides
        },
        "pairs": NUMBER,
        "problems": [{}, {}],
        "comparison": compared,
        **(scores_of(all_judged, seed=0) if judged else {"score": None, "tasks": {}}),
    }
    return ComparisonPage(record=record, pairs=pairs)


def sections_of(page):
    """Return the text of each section by its heading."""
    parts = re.split(r"<h2>", page)[1:]
    return {" ".join(parse(part.split("</h2>")[0]).text).split(":")[0].strip(): part for part in parts}


def distances_in(section):
    return [float(value) for value in re.findall(r"distance ([\d.e-]+)</div>", section)]


@pytest.fixture(scope="module")
def page(folders, compared):
    path = write_comparison_page(content_of(folders, compared), folders / "page" / "evaluation.html")
    return path.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_fetches_nothing(page):
    checker = parse(page)
    assert checker.open_tags == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in checker.addresses)
    assert not set(checker.tags) & {"script", "link", "iframe"}
    assert page.count("<svg") == 2
    assert "nan" not in " ".join(checker.text)


def test_pictures_come_before_tables_and_disagreements_before_other_pictures(page):
    names = list(sections_of(page))
    assert names == [
        "Lost", "Gained", "Farthest apart", "Nearest to each other", "Scores by task", "How far apart the two sets are",
        "Each for itself", "How the pictures were made",
    ]  # fmt: skip


def test_galleries_hold_what_they_say(page):
    sections = sections_of(page)
    verdicts = {name: re.findall(r'class="(right|wrong)">', sections[name]) for name in ("Lost", "Gained")}
    # Of 30: right and wrong at odd numbers that 5 does not divide, the other way round at even ones that it does.
    assert verdicts == {"Lost": ["right", "wrong"] * 12, "Gained": ["wrong", "right"] * 3}
    assert "12 of 12" not in page
    assert sections["Lost"].count("no &lt;cat&gt;") == 12
    far, near = distances_in(sections["Farthest apart"]), distances_in(sections["Nearest to each other"])
    assert far == sorted(far, reverse=True)
    assert near == sorted(near)
    assert len(far) == len(near) == 12
    assert max(near) < min(far)


def test_numbers_of_the_record_stand_on_the_page(page, compared):
    text = " ".join(" ".join(parse(page).text).split())
    results = compared["results"]
    wanted = [results["fid/filters-v1"]["distance"], results["patch_grid"]["pixel"]["value"]]
    wanted += [
        results["spectrum"]["1/4-1/2"]["pixel_over_source"]["value"],
        results["pair-distance/filters-v1"]["value"],
    ]
    for value in wanted:
        assert f"{value:.3g}" in text
    assert "is/filters-v1 (the network knows no classes)" in text
    assert "judged by mine/judge mine/judge" in text
    assert "steps not told 16" in text  # a folder without a manifest
    assert "made by not told maker of pixel" in text


def test_a_page_without_a_judge_shows_the_distances(folders, compared):
    content = content_of(folders, compared, judged=False)
    page = write_comparison_page(content, folders / "page" / "none.html").read_text(encoding="utf-8")
    assert parse(page).open_tags == []
    assert list(sections_of(page))[:2] == ["Farthest apart", "Nearest to each other"]
    assert page.count("<svg") == 1
    assert "Fine detail" in page


def test_a_page_of_one_model_shows_what_is_wrong_first(folders):
    content = content_of(folders, None, sides=("model",))
    page = write_comparison_page(content, folders / "page" / "one.html").read_text(encoding="utf-8")
    assert parse(page).open_tags == []
    assert list(sections_of(page)) == ["Not right", "Right", "Scores by task", "How the pictures were made"]
    assert "Retention" not in page


def test_rows_hold_every_result(compared):
    results = compared["results"]
    names = {row["name"].split("/")[0] for row in (*ratio_rows(results), *distance_rows(results))}
    assert names == {name.split("/")[0] for name in results}


def test_a_spectrum_without_a_ratio_is_drawn_with_a_gap(compared):
    spectrum = {band: dict(row) for band, row in compared["results"]["spectrum"].items()}
    spectrum["1/4-1/2"]["pixel_over_source"] = {"value": None, "low": None, "high": None}
    assert spectrum_svg(spectrum).startswith("<svg")
