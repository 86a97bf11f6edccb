import json

import pytest
import torch

from latent2pixel.errors import DataError
from latent2pixel.evaluate.geneval.layout import (
    missing_samples,
    read_prompt_folders,
    sample_path,
    save_sample,
    write_prompt_folders,
)
from latent2pixel.evaluate.geneval.six_tasks import load_six_tasks

PROMPTS = load_six_tasks()[::90]
GRAY = torch.zeros(3, 8, 8)


def test_what_is_written_is_read(tmp_path):
    write_prompt_folders(tmp_path, PROMPTS)
    save_sample(tmp_path, GRAY, prompt_index=1, sample_index=0)
    save_sample(tmp_path, GRAY, prompt_index=1, sample_index=3)
    write_prompt_folders(tmp_path, PROMPTS)  # again, as a resumed run does
    assert (tmp_path / "00001" / "samples" / "00003.png").is_file()
    assert json.loads((tmp_path / "00001" / "metadata.jsonl").read_text()) == PROMPTS[1].as_record()
    found = read_prompt_folders(tmp_path)
    assert [part.prompt for part in found] == PROMPTS
    assert [path.name for path in found[1].images] == ["00000.png", "00003.png"]
    assert not any(part.images for part in found if part.name != "00001")


def test_samples_that_are_still_to_be_made(tmp_path):
    write_prompt_folders(tmp_path, PROMPTS[:2])
    save_sample(tmp_path, GRAY, prompt_index=0, sample_index=1)
    assert missing_samples(tmp_path, 2, num_samples=2) == [(0, 0), (1, 0), (1, 1)]
    assert len(missing_samples(tmp_path, 2)) == 7


def test_folders_and_pictures_are_ordered_by_number(tmp_path):
    for number in ("10", "9", "00002"):
        (tmp_path / number / "samples").mkdir(parents=True)
        (tmp_path / number / "metadata.jsonl").write_text(json.dumps(PROMPTS[0].as_record()))
    for name in ("10.png", "9.png", "00002.png", "0.jpg", "1.png.bak", "grid.png", ".1.png.ab.partial", "x1.png"):
        (tmp_path / "9" / "samples" / name).touch()
    (tmp_path / "9" / "grid.png").touch()
    (tmp_path / "notes").mkdir()
    found = read_prompt_folders(tmp_path)
    assert [part.name for part in found] == ["00002", "9", "10"]
    assert [path.name for path in found[1].images] == ["00002.png", "9.png", "10.png"]
    assert {path.name for path in found[1].ignored} == {"0.jpg", "1.png.bak", "grid.png", "x1.png"}


def test_another_prompt_under_the_same_number_is_refused(tmp_path):
    write_prompt_folders(tmp_path, PROMPTS)
    with pytest.raises(DataError, match="not the prompt of its pictures"):
        write_prompt_folders(tmp_path, PROMPTS[::-1])


def test_a_folder_without_prompts_or_with_an_unreadable_one_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match="nothing for GenEval to score"):
            read_prompt_folders(path)
    (tmp_path / "00000").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_prompt_folders(tmp_path)
    (tmp_path / "00000" / "metadata.jsonl").write_text("")
    with pytest.raises(DataError, match="0 records"):
        read_prompt_folders(tmp_path)
    (tmp_path / "00000" / "metadata.jsonl").write_text('{"tag": "colors"}')
    with pytest.raises(DataError, match="GenEval's format"):
        read_prompt_folders(tmp_path)


def test_where_a_sample_lies(tmp_path):
    assert sample_path(tmp_path, 12, 3) == tmp_path / "00012" / "samples" / "00003.png"
