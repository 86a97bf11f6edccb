"""DPG-Bench's score of pictures that lie in any folder, one by one, by the prompt and seed of each."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from latent2pixel.evaluate.dpg.bench import DPGBench
from latent2pixel.evaluate.dpg.grids import compose_grids
from latent2pixel.evaluate.dpg.judge import Judge
from latent2pixel.evaluate.dpg.score import score_dpg
from latent2pixel.evaluate.pairs import Key, ListedImages
from latent2pixel.evaluate.scores import Judgement, PictureScore
from latent2pixel.io.records import read_records


def judge_grids(
    listed: ListedImages, folder: Path, judge: Judge, *, bench: DPGBench, num_samples: int, side_px: int | None
) -> Judgement:
    """Compose grids of a folder's pictures and score them; the same call again asks anew only what has changed.

    Scores of single pictures are those by the corrected rules, which drop none; the record holds both.

    Args:
        listed: Pictures of the prompts, with their seeds.
        folder: Receives ``grids`` and ``results.jsonl``.
        judge: Answers the questions.
        bench: Prompts and questions.
        num_samples: Pictures in a grid, 4 or 1.
        side_px: Width and height of a picture; None takes the files'.

    Raises:
        DataError: A prompt has more pictures than it should, or none is complete.
        ConfigError: No grid of so many pictures.
        EndpointError: The judge cannot go on; what it answered is kept.
        OutputFolderError: The folder cannot be written.
    """
    grids, results = folder / "grids", folder / "results.jsonl"
    report = compose_grids(listed.folder, grids, prompts=bench.prompts, num_samples=num_samples)
    result = score_dpg(grids, judge, bench=bench, num_samples=num_samples, side_px=side_px, results=results)
    scores: dict[Key, PictureScore] = {}
    for record in read_records(results):
        text, samples = bench.prompts[Path(record["image"]).stem], record.get("corrected")
        if isinstance(samples, list):
            # A grid shows its pictures in the order of their seeds.
            for seed, score in zip(_seeds_of(text, listed.paths), samples, strict=True):
                scores[text, seed] = PictureScore(file=listed.paths[text, seed], task="dpg/corrected", score=score)
    told = result.as_record() | {"results": results.name, "incomplete": report.incomplete}
    return Judgement(scores=scores, broken={}, record={"key": result.corrected.key, **told})


def first_prompts(bench: DPGBench, number: int | None) -> DPGBench:
    """Return the first prompts of a set with their questions, a set of its own; all of it for None."""
    if number is None or number >= len(bench.prompts):
        return bench
    prompts = dict(list(bench.prompts.items())[:number])
    rows = tuple(row for row in bench.rows if row.item in prompts)
    return replace(bench, rows=rows, prompts=prompts, is_official=False)


def _seeds_of(text: str, paths: Mapping[Key, Path]) -> list[int]:
    return sorted(seed for prompt, seed in paths if prompt == text)
