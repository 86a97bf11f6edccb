"""The architecture: which package may import which, and what an import may cost."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "latent2pixel"
LAYERS = [
    {"errors", "seeds"},
    {"io"},
    {"config"},
    {"flow"},
    {"model"},
    {"families"},
    {"convert", "data", "train", "generate", "evaluate", "report", "world"},
    {"recipes"},
    {"workflow"},
    {"cli"},
]
"""From the bottom up. Members of one layer do not import each other."""
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(PACKAGE.rglob("*.py"))
FAMILY_WORDS = ("zimage", "z_image", "z-image")
MAY_NAME_FAMILIES = {"families", "world"}
"""``world`` builds the miniature source, a real model of one family."""


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imported_rooms(path: Path) -> set[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    parts = [name.split(".") for name in names if name.startswith("latent2pixel.")]
    return {part[1] for part in parts if part[1] in RANK}


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name != "__init__.py" or path.parent != PACKAGE], ids=str
)
def test_imports_point_down(path):
    here = room(path)
    upwards = {other for other in imported_rooms(path) if other != here and RANK[other] >= RANK[here]}
    assert not upwards, f"{here} imports {upwards}"


def test_modules_import_each_other_without_cycles():
    """Within a package too; imports inside functions are left out, they happen later."""
    modules = {module_name(path) for path in FILES}
    needs: dict[str, set[str]] = {name: set() for name in modules}
    for path in FILES:
        name = module_name(path)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                needs[name] |= {other if other in modules else node.module for other in inside} & modules
            elif isinstance(node, ast.Import):
                needs[name] |= {alias.name for alias in node.names} & modules
    graphlib.TopologicalSorter(needs).prepare()


@pytest.mark.parametrize("path", [path for path in FILES if room(path) not in MAY_NAME_FAMILIES], ids=str)
def test_family_names_stand_in_families_only(path):
    """Docstrings may name an example; code may not, not even in a string."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        text = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            text = node.value
        assert text is None or not any(word in text.lower() for word in FAMILY_WORDS), f"line {node.lineno}: {text}"


@pytest.mark.parametrize(
    "code", ["import latent2pixel", "import latent2pixel.cli.app", "import latent2pixel.world.render_ahead"]
)
def test_import_is_light(code):
    script = f"{code}; import sys; print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_evaluation_never_imports_the_trainer():
    """Nor does what it imports: an evaluation reads pictures and their records, whoever made them."""
    names = sorted(module_name(path) for path in FILES if room(path) == "evaluate")
    assert "latent2pixel.evaluate.compare" in names
    names.append("latent2pixel.workflow.side_by_side")
    script = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names}]; "
        "print([m for m in sys.modules if m.startswith('latent2pixel.train')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
