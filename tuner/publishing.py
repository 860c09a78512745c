"""What a run made, put on the Hugging Face Hub: checked here first, private unless said, compared afterwards."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .hub_faults import TOKENS, HubError, endpoint, expected, explain, place, scrub
from .hub_token import find_token
from .package import CARD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi

    from .upload import Upload
    from .watch import Watcher

PATHS_AT_ONCE = 100
_MB = 10**6


@dataclass(frozen=True, slots=True)
class Published:
    """What stands on the Hub now, as it said itself afterwards."""

    repo: str
    url: str
    commit: str
    pull_request: str | None
    private: bool
    account: str
    """Who published it."""
    licence: str
    files: tuple[dict[str, Any], ...]
    """`name`, `size` and `checked` (sha256 or git): what was compared besides the size."""


def publish(upload: Upload, watcher: Watcher, *, create_pr: bool = False) -> Published:
    """Put it on the Hub, and compare what the Hub then lists with what is here.

    Args:
        upload: from `prepare`.
        watcher: sees how far it is.
        create_pr: suggest the files to a repository that is there, rather than change it.

    Raises: UsageError where the repository is not what was said; HubError with what to do; StorageError.
    """
    token = find_token()
    with _quiet_hub(watcher, upload.repo, token):
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        watcher.phase("asking the Hub")
        account = _account(api)
        private = _repository(api, upload, watcher, create_pr=create_pr)
        additions = _additions(upload)
        _send_large(api, upload, additions, watcher, create_pr=create_pr)
        watcher.phase("committing")
        commit = api.create_commit(
            upload.repo, additions, commit_message=f"Upload {upload.title} with tuner", create_pr=create_pr
        )
        watcher.phase("comparing with the Hub")
        files = _compare(api, upload, additions, commit)
    return Published(
        repo=upload.repo,
        url=f"{endpoint()}/{upload.repo}",
        commit=commit.oid,
        pull_request=commit.pr_url,
        private=private,
        account=account,
        licence=upload.licence,
        files=files,
    )


@contextmanager
def _quiet_hub(watcher: Watcher, repo: str, token: str) -> Iterator[None]:
    """Within it the library shows no bars, its warnings go to the watcher, and its faults become ours."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    level, hidden = logging.get_verbosity(), are_progress_bars_disabled()
    heard: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            logging.set_verbosity_error()
            disable_progress_bars()
            yield
    except expected() as error:
        raise explain(error, repo, token) from None  # the chain might hold the token in a request's headers
    finally:
        logging.set_verbosity(level)
        if not hidden:
            enable_progress_bars()
        for warning in heard:
            if issubclass(warning.category, UserWarning):
                watcher.warn(scrub(" ".join(str(warning.message).split()), token))


def _account(api: HfApi) -> str:
    """Whose token it is. Raises: UsageError where it may only read."""
    me: Any = api.whoami()
    if not isinstance(me, dict):
        raise HubError(f"{place()} does not answer as the Hub does", "is HF_ENDPOINT right, or is a proxy between?")
    auth = me.get("auth")
    granted = auth.get("accessToken") if isinstance(auth, dict) else None
    if isinstance(granted, dict) and granted.get("role") == "read":
        raise UsageError(
            "the Hugging Face token on this machine may only read", f"make one with write access: {TOKENS}"
        )
    return str(me.get("name", ""))


def _repository(api: HfApi, upload: Upload, watcher: Watcher, *, create_pr: bool) -> bool:
    """See to the repository; whether it is private. Raises: UsageError where it is not what was said."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        known = api.model_info(upload.repo)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        if create_pr:
            raise UsageError(
                f"the Hub has no {upload.repo} that a change could be suggested to, or this token may not see it",
                "correct the name, or leave out --create-pr to make it",
            ) from None
        api.create_repo(upload.repo, private=not upload.public)
        known = api.model_info(upload.repo)
    private = bool(known.private)
    if not private and not upload.public:
        raise UsageError(
            f"{upload.repo} is public: everybody sees what is put there",
            "say --public if that is meant, else choose another name",
        )
    if private and upload.public:
        watcher.warn(f"{upload.repo} is private and stays so; its settings on the Hub change that")
    return private


def _additions(upload: Upload) -> list[CommitOperationAdd]:
    from huggingface_hub import CommitOperationAdd

    return [
        CommitOperationAdd(path.as_posix(), upload.card if path == Path(CARD) else str(upload.folder / path))
        for path in upload.files
    ]


def _send_large(
    api: HfApi, upload: Upload, additions: Sequence[CommitOperationAdd], watcher: Watcher, *, create_pr: bool
) -> None:
    """Send the contents of large files one by one, so that how far it is can be seen; small ones go with the commit."""
    watcher.phase("uploading (MB)", upload.size // _MB)
    done = 0
    for addition in additions:
        api.preupload_lfs_files(upload.repo, [addition], create_pr=create_pr, free_memory=False)
        done += addition.upload_info.size
        watcher.progress(done // _MB)


def _compare(
    api: HfApi, upload: Upload, additions: Sequence[CommitOperationAdd], commit: CommitInfo
) -> tuple[dict[str, Any], ...]:
    """That the Hub lists each file with its size and its hash. Raises: HubError naming those that it does not."""
    from huggingface_hub.hf_api import RepoFile

    revision = (commit.pr_revision if commit.pr_url else None) or commit.oid
    names = [addition.path_in_repo for addition in additions]
    there: dict[str, RepoFile] = {}
    for start in range(0, len(names), PATHS_AT_ONCE):
        listed = api.get_paths_info(upload.repo, names[start : start + PATHS_AT_ONCE], revision=revision)
        there |= {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}
    told = [(addition, _checked(addition, there.get(addition.path_in_repo))) for addition in additions]
    wrong = [f"{addition.path_in_repo} ({fault})" for addition, (_, fault) in told if fault]
    if wrong:
        raise HubError(
            f"{upload.repo} does not hold what was sent: {', '.join(wrong[:5])}",
            "start the same command again; if it stays so, look at the repository's files on the Hub",
        )
    return tuple(
        {"name": addition.path_in_repo, "size": addition.upload_info.size, "checked": how}
        for addition, (how, _) in told
    )


def _checked(addition: CommitOperationAdd, listed: Any) -> tuple[str, str]:
    """What was compared, and what is wrong if anything."""
    from huggingface_hub.utils.sha import git_hash

    if listed is None:
        return "", "is not there"
    if listed.size != addition.upload_info.size:
        return "", f"{listed.size:,} bytes there, {addition.upload_info.size:,} here"
    if listed.lfs is not None:
        return "sha256", "" if listed.lfs.sha256 == addition.upload_info.sha256.hex() else "another sha256"
    with addition.as_file() as file:
        return "git", "" if listed.blob_id == git_hash(file.read()) else "other content"
