"""Answers questions with mPLUG in an environment of its own: run as a script there, never imported by the package.

Reads one JSON object a line from stdin and writes one a line to stdout. First, of itself:

    {"protocol": 1, "backend": "modelscope", "versions": {"modelscope": "1.9.5"}}

then, to each ``{"id": 3, "pictures": [PNG in base64, ...], "questions": [...]}``:

    {"id": 3, "answers": [[answer to each question], ...]}

or ``{"id": 3, "error": "..."}``, after which it ends. It ends too when stdin does. Only the standard library, Pillow
and the judge's own packages are needed; the code keeps to Python 3.8, which old releases of those want.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import sys
from importlib import import_module, metadata
from typing import Any, TextIO

PROTOCOL = 1
PACKAGES = {
    "modelscope": ("modelscope", "transformers", "torch"),
    "dpg_evaluator": ("dpg_evaluator", "transformers", "torch"),
}
"""For each backend the packages whose versions are told."""


class ModelScope:
    """The official program's judge."""

    def __init__(self, model: str, device: str) -> None:
        tasks = import_module("modelscope.utils.constant").Tasks
        pipeline = import_module("modelscope.pipelines").pipeline
        self._ask = pipeline(tasks.visual_question_answering, model=model, device=device)

    def answer(self, picture: Any, questions: list[str]) -> list[str]:
        """Return the answers about one picture, asked one by one as the official program does."""
        return [self._ask({"image": picture, "question": question})["text"] for question in questions]


class DPGEvaluator:
    """The same network in a package for newer versions of transformers."""

    def __init__(self, model: str, device: str) -> None:
        self._model = import_module("dpg_evaluator").MPLUG(model_dir=model, device=device)

    def answer(self, picture: Any, questions: list[str]) -> list[str]:
        """Return the answers about one picture, asked one by one: padding to the longest may turn an answer."""
        return [self._model.vqa(picture, question) for question in questions]


BACKENDS = {"modelscope": ModelScope, "dpg_evaluator": DPGEvaluator}


def main() -> None:
    """Load the judge, say so, and answer until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=sorted(BACKENDS), required=True)
    parser.add_argument("--model", required=True, help="folder of the weights")
    parser.add_argument("--device", required=True, help='"cpu", "cuda", "cuda:0"; modelscope calls it "gpu"')
    args = parser.parse_args()
    # Libraries print to stdout whatever they like; the answers go through a copy of it, and their words to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    judge = BACKENDS[args.backend](args.model, args.device)
    tell(answers, {"protocol": PROTOCOL, "backend": args.backend, "versions": versions(PACKAGES[args.backend])})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            tell(answers, {"id": request["id"], "answers": answer(judge, request)})
        except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as error:
            tell(answers, {"id": request["id"], "error": f"{type(error).__name__}: {error}"})
            raise


def answer(judge: Any, request: dict[str, Any]) -> list[list[str]]:
    """Return the answers to a request, a list for each picture."""
    from PIL import Image

    pictures = [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in request["pictures"]]
    return [judge.answer(picture, request["questions"]) for picture in pictures]


def tell(stream: TextIO, message: dict[str, Any]) -> None:
    """Write one line."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


if __name__ == "__main__":
    main()
