"""Why a model did not come from the Hugging Face hub, and what to do about it, in words for the user."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

from ...files.errors import printable

NO_NETWORK = (ConnectionError, TimeoutError, socket.gaierror)  # what the clients' own errors come from


def why_not_from_hub(name: str, error: Exception, *, examples: Sequence[str]) -> str:
    """One or two sentences for what came while ``name`` (owner/name) was looked for; examples: of names that are known."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    came = list(_chain(error))
    check = "" if name in examples else f"check the name (for example {', '.join(examples)}), "
    login = f"accept its licence on https://huggingface.co/{name}, run `hf auth login`"

    def among(*kinds: type[BaseException]) -> bool:
        return any(isinstance(each, kinds) for each in came)

    if among(GatedRepoError):
        return f"{name} is gated, and this machine has no access to it: {login}, and try again"
    if among(RepositoryNotFoundError):
        return f"the Hugging Face hub shows no {name}: {check}or run `hf auth login` if it is private"
    if among(OfflineModeIsEnabled, LocalEntryNotFoundError, *NO_NETWORK):
        silent = "is not asked in offline mode (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "does not answer"
        return (
            f"{name} is not whole in {constants.HF_HUB_CACHE}, and the Hugging Face hub {silent}: {check}"
            f"run `hf download {name}` where there is a network, or give a local file or folder. If it is gated, first {login}"
        )
    reason = f"{type(error).__name__}: {printable(' '.join(str(error).split()), most=300)}"
    return (
        f"{name} could not be loaded from the Hugging Face hub ({reason}): {check}look at the network, or give a "
        "local file or folder"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
