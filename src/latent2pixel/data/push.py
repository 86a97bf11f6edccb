"""A packed set on the Hugging Face Hub."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latent2pixel.data.card import CARD
from latent2pixel.data.pack import FOLDER
from latent2pixel.errors import DataError, L2PError, StateError
from latent2pixel.io.packed_image import PACKED

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PARTS = re.compile(r"(.+)-of-(\d{5})\.parquet")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What is uploaded where."""

    repository: str
    private: bool
    licence: str | None
    """As the card's front matter says."""
    files: dict[str, int]
    """Path in the repository -> bytes."""


def plan_upload(folder: Path, repository: str, *, public: bool) -> Upload:
    """Return what an upload would do; nothing is sent, and nothing asked of the Hub.

    Only the card and the Parquet files go; lists of skipped files and manifests stay.

    Args:
        folder: Written by ``pack``.
        repository: ``owner/name``.
        public: Let everybody see it. Without a licence in the card that is refused: others could not know what they
            may do with it, and neither, it seems, does the owner.

    Raises:
        DataError: The folder is no packed set, the repository's name has another form, or a public set has no licence.
        StateError: Some of its files are missing.
    """
    from huggingface_hub.repocard import metadata_load

    card = folder / CARD
    packed = sorted((folder / FOLDER).glob(f"[!.]*{PACKED}"))
    if not packed or not card.is_file():
        raise DataError(
            f"{folder} is no packed set",
            found="no Parquet files in data/" if not packed else f"no {CARD}",
            expected=f"{CARD} and data/*{PACKED}",
            fix="Pack it first: `l2p data pack DIR OUT`.",
        )
    _require_name(repository)
    _require_whole(packed)
    front = metadata_load(card) or {}
    licence = front.get("license_name") or front.get("license")
    if public and not licence:
        raise DataError(
            "A set without a licence is not published",
            found=f"no licence in {card}: the records of some images or all of them tell none",
            expected="a licence: that of the model that made the images, or of the photographs",
            fix="Pack again with --licence, or upload privately: without --public.",
        )
    files = {str(path.relative_to(folder)): path.stat().st_size for path in (card, *packed)}
    return Upload(repository=repository, private=not public, licence=licence, files=files)


def push(folder: Path, upload: Upload, *, api: "HfApi") -> str:
    """Upload a packed set in one commit and return its address; files that the Hub has already are not sent again.

    The repository is made if it is missing.

    Args:
        folder: Written by ``pack``.
        upload: What ``plan_upload`` returned.
        api: Client of the Hub, with its endpoint and token.

    Raises:
        StateError: The repository exists and everybody sees it, though the upload was to be private.
        L2PError: The Hub cannot be reached, or refuses.
    """
    # The client re-exports its HTTP library's class, which is another one in each of its major versions.
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        api.create_repo(upload.repository, repo_type="dataset", private=upload.private, exist_ok=True)
        if upload.private and not api.dataset_info(upload.repository).private:
            raise _is_public(upload.repository)
        commit = api.upload_folder(
            repo_id=upload.repository,
            folder_path=folder,
            repo_type="dataset",
            allow_patterns=list(upload.files),
            commit_message="Upload a set packed by latent2pixel",
        )
    except (HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise L2PError(
            "The Hub did not take the upload",
            found=str(error).strip().split("\n")[0],
            expected=f"write access to the dataset {upload.repository}",
            fix="Log in with `hf auth login`, then run the same command again: what is there is not sent twice.",
        ) from error
    return str(commit.repo_url)


def _require_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        found = "" if "/" in repository else f"{repository!r}, without an owner"
    except HFValidationError as error:
        found = str(error)
    if found:
        raise DataError("That is no name of a dataset", found=found, expected="owner/name", fix="Choose another name.")


def _is_public(repository: str) -> StateError:
    return StateError(
        "The dataset exists, and everybody sees it",
        found=f"{repository}, public",
        expected="a private one, or none yet",
        fix="Choose another name, or upload with --public.",
    )


def _require_whole(packed: list[Path]) -> None:
    """Check that the files are all those that their names promise."""
    numbered = [match for path in packed if (match := PARTS.fullmatch(path.name))]
    wanted = int(numbered[0][2]) if numbered else len(packed)
    if len(packed) != wanted or len({match[2] for match in numbered}) > 1:
        raise StateError(
            "The set is not packed wholly",
            found=f"{len(packed)} files",
            expected=f"{wanted}, as their names say",
            fix="Run `l2p data pack` again with the same arguments: it goes on where it stopped.",
        )
