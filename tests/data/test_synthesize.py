"""Images of a real, tiny pipeline: the same whatever happens around them."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import EXAMPLES, FAMILIES, patch_px, tiny_pipeline, tiny_pixel_pipeline, tiny_source

from latent2pixel.data import synthesize as module
from latent2pixel.data.curation import Curation
from latent2pixel.data.dataset import ImageFolderDataset
from latent2pixel.data.prompts import Prompt
from latent2pixel.data.source_facts import SourceFacts
from latent2pixel.data.synthesize import MANIFEST, image_seed, synthesize
from latent2pixel.errors import ConfigError, DataError, GeometryError, OutputFolderError, StateError
from latent2pixel.families import load_family
from latent2pixel.io.records import read_records, write_records

SIZE_PX = 32
TEXTS = ["red circle", "a blue square to the left of two green triangles", "two red square"]
PROMPTS = [Prompt(id=f"p{index}", prompt=text, major_class="m", sub_class="s") for index, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def pipe():
    return tiny_pixel_pipeline(EXAMPLES[0])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Six images make three shards."""
    monkeypatch.setattr(module, "SHARD_SIZE", 2)


def run(pipe, folder, *, prompts=PROMPTS, **changes):
    options = {
        "seeds_per_prompt": 2,
        "image_size_px": SIZE_PX,
        "num_steps": 2,
        "guidance_scale": 2.0,
        "batch_size": 2,
        "seed": 0,
    }
    return synthesize(pipe, prompts, folder, **(options | changes))


def images(folder):
    """Return every image by prompt and seed."""
    return {
        (record["prompt"], record["seed"]): np.asarray(Image.open(file.parent / record["file_name"])).astype(int)
        for file in sorted(folder.glob("shard-*/metadata.jsonl"))
        for record in read_records(file)
    }


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(np.abs(one[key] - other[key]).max() for key in one)


def test_folder_is_a_training_set(pipe, tmp_path):
    report = run(pipe, tmp_path / "out")
    assert (report.num_images, report.num_new) == (6, 6)
    made = images(tmp_path / "out")
    assert set(made) == {(prompt.prompt, image_seed(0, prompt.id, k)) for prompt in PROMPTS for k in range(2)}
    assert {image.shape for image in made.values()} == {(SIZE_PX, SIZE_PX, 3)}
    assert len({image.tobytes() for image in made.values()}) == 6
    record = read_records(tmp_path / "out" / "shard-00000" / "metadata.jsonl")[0]
    assert record == {
        "file_name": "000000.png", **asdict(PROMPTS[0]), "seed": image_seed(0, "p0", 0), "width": SIZE_PX,
        "height": SIZE_PX, "steps": 2, "guidance": 2.0, "source": "", "revision": "", "licence": "", "origin": "source",
    }  # fmt: skip
    assert len(ImageFolderDataset(tmp_path / "out", SIZE_PX)) == 6


def test_folder_loads_as_a_dataset_of_images(pipe, tmp_path):
    datasets = pytest.importorskip("datasets")
    assert run(pipe, tmp_path / "out", curation=Curation(scorer=redness, best_of=2)).num_rejected == 6
    (tmp_path / "out" / ".shard-00009.partial").mkdir()
    (tmp_path / "out" / ".logs").mkdir()
    (tmp_path / "out" / ".logs" / "rank-00000.log").write_text("x")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    rows = list(loaded["train"])
    assert {(row["prompt"], row["seed"]) for row in rows} == images(tmp_path / "out").keys()
    assert len(rows) == 6
    assert rows[0]["image"].size == (SIZE_PX, SIZE_PX)
    assert rows[0]["origin"] == "source"


def test_caller_keeps_its_prompts(pipe, tmp_path):
    """Some pipelines write the chat template into the list that they are given."""
    prompts = list(PROMPTS)
    run(pipe, tmp_path / "out", prompts=prompts)
    assert [prompt.prompt for prompt in prompts] == TEXTS


def test_batch_size_changes_rounding_at_most(pipe, tmp_path):
    run(pipe, tmp_path / "one", batch_size=1)
    run(pipe, tmp_path / "two", batch_size=2)
    # float32 sums of another batch differ in the last bits, which can tip one of 255 levels
    assert largest_difference(images(tmp_path / "one"), images(tmp_path / "two")) <= 1


def test_global_random_state_is_neither_read_nor_changed(pipe, tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run(pipe, tmp_path / "one")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    run(pipe, tmp_path / "two")
    assert largest_difference(images(tmp_path / "one"), images(tmp_path / "two")) == 0


def test_finished_shards_are_not_made_again(pipe, tmp_path):
    run(pipe, tmp_path / "out")
    before = images(tmp_path / "out")
    assert run(pipe, tmp_path / "out").num_new == 0
    shutil.rmtree(tmp_path / "out" / "shard-00001")
    report = run(pipe, tmp_path / "out")
    assert (report.num_images, report.num_new) == (6, 2)
    assert largest_difference(before, images(tmp_path / "out")) == 0


class Interrupted:
    """The pipeline, stopped by Ctrl-C at its second batch."""

    def __init__(self, pipe):
        self.pipe, self.calls, self.transformer = pipe, 0, pipe.transformer

    def set_progress_bar_config(self, **options):
        self.pipe.set_progress_bar_config(**options)

    def __call__(self, **arguments):
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return self.pipe(**arguments)


def test_interrupted_run_goes_on_to_the_same_images(pipe, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(pipe), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MANIFEST, "shard-00000"]
    assert run(pipe, tmp_path / "out").num_new == 4
    run(pipe, tmp_path / "whole")
    assert largest_difference(images(tmp_path / "out"), images(tmp_path / "whole")) == 0


def test_ranks_share_the_work(pipe, tmp_path):
    reports = [run(pipe, tmp_path / "ranks", rank=rank, world_size=2) for rank in (0, 1)]
    assert [report.num_images for report in reports] == [4, 2]
    run(pipe, tmp_path / "alone")
    assert largest_difference(images(tmp_path / "ranks"), images(tmp_path / "alone")) == 0


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_rank_that_does_not_exist(pipe, tmp_path, rank, world_size):
    """Rank 2 of 2 used to make the shards of rank 0 a second time."""
    with pytest.raises(StateError, match="no process of that rank"):
        run(pipe, tmp_path / "out", rank=rank, world_size=world_size)


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": 3},
        {"seed": 1},
        {"guidance_scale": 3.0},
        {"image_size_px": 64},
        {"seeds_per_prompt": 1},
        {"prompts": PROMPTS[:2]},
    ],
)
def test_other_settings_do_not_mix(pipe, tmp_path, change):
    run(pipe, tmp_path / "out")
    with pytest.raises(StateError, match="other settings") as error:
        run(pipe, tmp_path / "out", **change)
    assert next(iter(change)) in error.value.found


def test_a_damaged_manifest_is_told(pipe, tmp_path):
    run(pipe, tmp_path / "images")
    manifest = tmp_path / "images" / MANIFEST
    manifest.write_text(manifest.read_text()[:-10])
    with pytest.raises(StateError, match="manifest is damaged"):
        run(pipe, tmp_path / "images")


def test_size_that_the_pipeline_refuses(pipe, tmp_path):
    with pytest.raises(GeometryError) as error:
        run(pipe, tmp_path / "out", image_size_px=SIZE_PX + 1)
    assert "divisible" in error.value.found


def test_call_that_made_nothing_does_not_block_the_corrected_one(pipe, tmp_path):
    with pytest.raises(GeometryError):
        run(pipe, tmp_path / "out", image_size_px=SIZE_PX + 1)
    assert run(pipe, tmp_path / "out").num_new == 6
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["image_size_px"] == SIZE_PX


@pytest.mark.parametrize("name", ["num_steps", "batch_size", "seeds_per_prompt"])
def test_counts_start_at_one(pipe, tmp_path, name):
    with pytest.raises(ConfigError, match=name):
        run(pipe, tmp_path / "out", **{name: 0})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prompts", [[], [PROMPTS[0], PROMPTS[0]]])
def test_prompts_that_cannot_be_told_apart(pipe, tmp_path, prompts):
    with pytest.raises(DataError):
        run(pipe, tmp_path / "out", prompts=prompts)


def test_folder_that_cannot_be_written(pipe, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputFolderError):
        run(pipe, tmp_path / "file" / "out")


class Cramped(Interrupted):
    """The pipeline on a device that holds a few images, and says so in one of several ways."""

    def __init__(self, pipe, most, error):
        super().__init__(pipe)
        self.most, self.error, self.asked = most, error, []

    def __call__(self, **arguments):
        self.asked.append(len(arguments["prompt"]))
        if self.asked[-1] > self.most:
            raise self.error
        return self.pipe(**arguments)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] data. DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_batch_is_halved_until_it_fits(pipe, tmp_path, error):
    cramped = Cramped(pipe, 2, error)
    run(cramped, tmp_path / "out", batch_size=None, shard_size=6)
    assert cramped.asked == [6, 3, 1, 1, 1, 1, 1, 1]
    run(pipe, tmp_path / "alone", batch_size=1, shard_size=6)
    assert largest_difference(images(tmp_path / "out"), images(tmp_path / "alone")) == 0


def test_batch_that_was_asked_for_is_not_halved(pipe, tmp_path):
    with pytest.raises(GeometryError, match="2 images at a time do not fit") as error:
        run(Cramped(pipe, 1, OUT_OF_MEMORY[0]), tmp_path / "out", batch_size=2)
    assert "auto" in error.value.fix
    with pytest.raises(GeometryError, match="1 image at a time do"):
        run(Cramped(pipe, 0, OUT_OF_MEMORY[0]), tmp_path / "out", batch_size=None)


def test_other_errors_are_no_lack_of_memory(pipe, tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        run(Cramped(pipe, 0, RuntimeError("a bug")), tmp_path / "out", batch_size=None)


ONE_PROMPT = [name for name in FAMILIES if load_family(name).one_prompt_a_call]


@pytest.mark.parametrize("name", FAMILIES)
def test_batches_of_every_family_make_the_images_of_single_prompts(name, tmp_path):
    """Pipelines that do not are given one prompt at a time."""
    pipe, texts = tiny_pipeline(name), getattr(tiny_source(name), "PROMPTS", TEXTS[:2])
    prompts = [Prompt(id=str(i), prompt=text, major_class="m", sub_class="s") for i, text in enumerate(texts)]
    options = {"prompts": prompts, "image_size_px": 4 * patch_px(name), "seeds_per_prompt": 1, "shard_size": 9}
    torch.manual_seed(1)
    run(pipe, tmp_path / "auto", batch_size=None, **options)
    torch.manual_seed(2)
    run(pipe, tmp_path / "one", batch_size=1, **options)
    assert largest_difference(images(tmp_path / "auto"), images(tmp_path / "one")) <= 1


@pytest.mark.parametrize("name", ONE_PROMPT)
def test_pipelines_that_take_one_prompt_refuse_more(name, tmp_path):
    with pytest.raises(ConfigError, match="one image at a time"):
        run(tiny_pipeline(name), tmp_path / "out", batch_size=2)


def test_several_sizes(pipe, tmp_path):
    sizes = {(32, 32): 2.0, (32, 48): 1.0}
    run(pipe, tmp_path / "out", sizes=sizes, shard_size=4)
    made = images(tmp_path / "out")
    assert sorted(image.shape[:2] for image in made.values()) == [(32, 32)] * 4 + [(32, 48)] * 2
    for file in (tmp_path / "out").glob("shard-*/metadata.jsonl"):
        for record in read_records(file):
            image = made[record["prompt"], record["seed"]]
            assert (record["height"], record["width"]) == image.shape[:2]
    run(pipe, tmp_path / "square", shard_size=4)
    squares = {key: image for key, image in made.items() if image.shape[1] == 32}
    expected = {key: image for key, image in images(tmp_path / "square").items() if key in squares}
    assert largest_difference(squares, expected) == 0
    with pytest.raises(StateError, match="other settings"):
        run(pipe, tmp_path / "out", sizes={(32, 32): 1.0, (32, 48): 1.0}, shard_size=4)


def darkness(image, prompt):
    """Score any image by how dark it is."""
    return -float(np.asarray(image).mean())


def redness(image, prompt):
    """Score an image by its share of red; the prompt is its own."""
    assert prompt in TEXTS
    return float(np.asarray(image)[..., 0].mean())


def test_threshold_leaves_images_out_and_names_them(pipe, tmp_path):
    run(pipe, tmp_path / "all")
    scores = {key: image[..., 0].mean() for key, image in images(tmp_path / "all").items()}
    threshold = float(np.median(list(scores.values())))
    report = run(pipe, tmp_path / "out", curation=Curation(scorer=redness, threshold=threshold))
    assert (report.num_images, report.num_new, report.num_rejected) == (3, 6, 3)
    kept = images(tmp_path / "out")
    assert set(kept) == {key for key, score in scores.items() if score >= threshold}
    assert len([*(tmp_path / "out").glob("shard-*/*.png")]) == 3
    files = (tmp_path / "out").glob("shard-*/rejected.jsonl")
    rejected = {(one["prompt"], one["seed"]): one for file in files for one in read_records(file)}
    assert rejected.keys() == scores.keys() - kept.keys()
    for key, record in rejected.items():
        assert record["score"] == pytest.approx(scores[key])
        assert "below" in record["reason"]
    assert run(pipe, tmp_path / "out", curation=Curation(scorer=redness, threshold=threshold)).num_new == 0
    with pytest.raises(StateError, match="other settings"):
        run(pipe, tmp_path / "out")


def test_best_of_several(pipe, tmp_path):
    run(pipe, tmp_path / "all", seeds_per_prompt=6)
    scores = {key: image[..., 0].mean() for key, image in images(tmp_path / "all").items()}
    curation = Curation(scorer=redness, best_of=3)
    report = run(pipe, tmp_path / "out", curation=curation)
    assert (report.num_images, report.num_new, report.num_rejected) == (6, 18, 12)
    kept = images(tmp_path / "out")
    for prompt in PROMPTS:
        for index in range(2):
            seeds = [image_seed(0, prompt.id, index + 2 * candidate) for candidate in range(3)]
            best = max(seeds, key=lambda seed, text=prompt.prompt: scores[text, seed])
            assert [seed for seed in seeds if (prompt.prompt, seed) in kept] == [best]


def test_nothing_good_enough(pipe, tmp_path):
    report = run(pipe, tmp_path / "out", curation=Curation(scorer=redness, threshold=256.0))
    assert (report.num_images, report.num_rejected) == (0, 6)


def test_scorer_that_returns_no_number(pipe, tmp_path):
    with pytest.raises(DataError, match="no number"):
        run(pipe, tmp_path / "out", curation=Curation(scorer=lambda *_: float("nan"), best_of=2))


def test_folder_of_the_first_version_is_read_and_completed(pipe, tmp_path):
    """Its manifest told six settings, its records six fields, and what it was making had no journal."""
    out = tmp_path / "out"
    run(pipe, out, shard_size=240)
    whole = images(out)
    manifest = json.loads((out / MANIFEST).read_text())
    early = {"image_size_px", "num_steps", "guidance_scale", "seeds_per_prompt", "seed", "prompts"}
    (out / MANIFEST).write_text(json.dumps({key: manifest[key] for key in early}))
    metadata = out / "shard-00000" / "metadata.jsonl"
    fields = ("file_name", "id", "prompt", "major_class", "sub_class", "seed")
    write_records(metadata, ({key: record[key] for key in fields} for record in read_records(metadata)))
    assert run(pipe, out, shard_size=240).num_new == 0
    assert len(ImageFolderDataset(out, SIZE_PX)) == 6
    (out / "shard-00000").rename(out / ".shard-00000.partial")
    (out / ".shard-00000.partial" / "metadata.jsonl").unlink()
    assert run(pipe, out, shard_size=240).num_new == 6
    assert largest_difference(images(out), whole) == 0
    with pytest.raises(StateError, match="other settings"):
        run(pipe, out, shard_size=2)


def test_images_of_another_source_do_not_mix(pipe, tmp_path):
    facts = SourceFacts(source="a/b", revision="1", licence="mit")
    run(pipe, tmp_path / "out", source=facts)
    record = read_records(tmp_path / "out" / "shard-00000" / "metadata.jsonl")[0]
    assert {key: record[key] for key in asdict(facts)} == asdict(facts)
    assert run(pipe, tmp_path / "out", source=replace(facts, source="c")).num_new == 0
    with pytest.raises(StateError, match="revision = 2"):
        run(pipe, tmp_path / "out", source=replace(facts, revision="2"))


def test_seeds_depend_on_each_part_and_stay_as_they_are():
    assert len({image_seed(seed, prompt, k) for seed in (0, 1) for prompt in ("a", "b") for k in (0, 1)}) == 8
    # Fixed: another value would make every existing data set impossible to continue.
    assert image_seed(0, "p0", 0) == 242685927049584
