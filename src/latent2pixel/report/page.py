"""The frame of the HTML pages: templates beside this file, one self-contained file out of each."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latent2pixel.errors import L2PError
from latent2pixel.io.new_folder import write_file

FOLDER = Path(__file__).parent


def require_packages() -> None:
    """Check that what pages need is installed, before any work.

    Raises:
        L2PError: matplotlib or jinja2 is missing.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise L2PError(
            "the report needs two packages that are not installed",
            found=str(error),
            expected="matplotlib and jinja2",
            fix="Install them with `pip install 'latent2pixel[report]'`.",
        ) from error


def write_page(
    template: str, path: Path, context: Mapping[str, Any], *, filters: Mapping[str, Callable[..., str]]
) -> Path:
    """Fill a template and write it as one file, which appears complete and replaces an older one; return its path.

    Args:
        template: Name of a template in this folder. All text that it is given is escaped.
        path: File to write.
        context: What the template is given.
        filters: What it may call.

    Raises:
        OutputFolderError: The file cannot be written, or the disk is full.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    write_file(path, environment.get_template(template).render(**context))
    return path
