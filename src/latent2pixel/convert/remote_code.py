"""A pixel pipeline folder that carries the code of its classes, for diffusers' ``trust_remote_code``."""

import ast
import importlib.util
import shutil
from pathlib import Path

from latent2pixel import __version__
from latent2pixel.families import module_of
from latent2pixel.families.base import require_pixel_pipeline
from latent2pixel.io.new_folder import new_folder
from latent2pixel.io.pipeline_folder import find_pipeline_folder, require_complete

PACKAGE = __package__.split(".")[0]
CODEC_MODULE = f"{PACKAGE}.model.codec"
MARGIN = "| "
"""Before each line of a carried module: diffusers looks for import lines in the file, in strings too, and would ask for
this library."""
LOADER = '''\
"""{class_name} of {package} {version}, with all the modules that it needs.

diffusers loads this file when a pipeline is opened with trust_remote_code=True. Where {package} is installed, its own
modules serve instead.
"""

import importlib.abc
import importlib.util
import sys

SOURCES = {{
{sources}
}}


class CarriedModules(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds the modules above."""

    def find_spec(self, name, path=None, target=None):
        if name not in SOURCES:
            return None
        is_package = any(other.startswith(name + ".") for other in SOURCES)
        return importlib.util.spec_from_loader(name, self, is_package=is_package)

    def is_package(self, name):
        return any(other.startswith(name + ".") for other in SOURCES)

    def get_source(self, name):
        return "\\n".join(line[{margin}:] for line in SOURCES[name].splitlines()[1:])


if importlib.util.find_spec("{package}") is None:
    # Behind all others: an installed library found later comes first.
    sys.meta_path.append(CarriedModules())
{class_name} = getattr(importlib.import_module("{module}"), "{attribute}")
'''


def export_with_code(model: str | Path, out: str | Path) -> Path:
    """Copy a pixel pipeline and put the code of its codec and its transformer beside their weights.

    It then loads with ``DiffusionPipeline.from_pretrained(out, trust_remote_code=True)`` where this library is not
    installed; diffusers, transformers and accelerate are still needed. Where the library is installed, plain folders
    need no trust.

    Args:
        model: Pixel pipeline: a folder, or ``owner/name`` on the Hub.
        out: Folder to make.

    Returns:
        The folder.

    Raises:
        SourceError: If the model is no pixel pipeline.
        CheckpointError: If its weights are missing or truncated.
        OutputFolderError: If ``out`` holds something, cannot be written, or the disk is full.
    """
    folder, target = find_pipeline_folder(model), Path(out)
    class_name = require_pixel_pipeline(folder)
    require_complete(folder)
    with new_folder(target) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        family_module = module_of(class_name)
        for part, name, module, attribute in (
            ("transformer", class_name, family_module, "PIXEL_CLASS"),
            ("vae", "PixelVAE", CODEC_MODULE, "PixelVAE"),
        ):
            (partial / part / f"{PACKAGE}.py").write_text(_carrier(name, module, attribute), encoding="utf-8")
    return target


def _carrier(class_name: str, module: str, attribute: str) -> str:
    """Return a module that defines one class from carried sources."""
    sources = []
    for name, text in sorted(_needed(module).items()):
        lines = "\n".join(f"{MARGIN}{line}" for line in text.splitlines())
        sources.append(f"    {name!r}: r'''\n{lines}\n''',")
    return LOADER.format(
        class_name=class_name,
        package=PACKAGE,
        version=__version__,
        sources="\n".join(sources),
        margin=len(MARGIN),
        module=module,
        attribute=attribute,
    )


def _needed(module: str) -> dict[str, str]:
    """Return name -> source of a module and all modules of this package that it imports, packages too."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        spec = importlib.util.find_spec(name)
        if name in found or spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin).read_text(encoding="utf-8")
        waiting += [name.rpartition(".")[0]] if "." in name else []
        for node in ast.walk(ast.parse(found[name])):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                waiting.append(str(node.module))
    return found
