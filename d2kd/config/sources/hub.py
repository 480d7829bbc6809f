"""Files of the Hugging Face hub: of its cache on this machine, or downloaded into it."""

import logging

from ...errors import MissingFileError
from ...text import plain


def is_cached(repository: str, file: str) -> bool:
    """Whether a file of a repository, given as for `hub_file`, has been downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, revision = repository.partition("@")
    try:
        return isinstance(try_to_load_from_cache(repo, file, revision=revision or None), str)
    except ValueError:  # no name of a repository
        return False


def hub_file(repository: str, file: str) -> str:
    """Where a file of a repository lies, under the revision that it was downloaded at.

    Args:
        repository: "owner/name", maybe with "@revision" behind it.
        file: its name there.

    Raises:
        MissingFileError: it is neither here nor can be downloaded.
    """
    from huggingface_hub import hf_hub_download

    repo, _, revision = repository.partition("@")
    try:
        return str(hf_hub_download(repo, file, revision=revision or None, local_files_only=True))
    except (OSError, ValueError):
        pass  # not here, or no name of a repository
    log = logging.getLogger(__name__)
    log.info("Looking for %s of %s on huggingface.co", file, plain(repository))
    try:
        return str(hf_hub_download(repo, file, revision=revision or None))
    except Exception as error:  # of the name, the hub or the network
        raise MissingFileError(
            f"{file} of {plain(repository)} is not on this machine and cannot be downloaded from "
            f"huggingface.co ({type(error).__name__})."
        ) from error
