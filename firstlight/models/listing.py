"""What a repository of a hub holds: its files with sizes and hashes, at which commit, and where each one is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode, urljoin

import msgspec

from firstlight.models.asking import Answer, HubFailure, ask
from firstlight.models.hubs import HubEndpoint
from firstlight.models.selection import RemoteFile
from firstlight.models.store import is_ours
from firstlight.models.tokens import Headers, token_headers

_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_COMMIT = re.compile(r"[0-9a-f]{40}")

_CUT = 3000
"""ModelScope lists no more entries than this, and does not say so."""

_PAGES = 1000
"""Requests for one list; more of them would be a hub that goes round in circles."""

_NO_MODEL = "it has no model of that name"
_NO_REVISION = "it has no such revision of the model"


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a repository; `commit` pins them where the hub tells it."""

    endpoint: HubEndpoint
    id: str
    revision: str
    """The commit, else the branch or tag: what the addresses name."""
    commit: str | None
    files: list[RemoteFile]
    private: bool = False
    """Seen with the user's token alone."""

    def url(self, name: str) -> str:
        """Return the address of a file's content. Plain HTTP with ranges, also for files that the hub keeps in xet."""
        if self.endpoint.source == "huggingface":
            return f"{self.endpoint.shown}/{self.id}/resolve/{quote(self.revision, safe='')}/{quote(name)}"
        words = urlencode({"Revision": self.revision, "FilePath": name}, quote_via=quote)
        return f"{self.endpoint.shown}/api/v1/models/{self.id}/repo?{words}"


def list_files(endpoint: HubEndpoint, model: str, revision: str | None) -> Listing:
    """Return what a repository holds.

    Raises:
        HubFailure: the hub does not know it, refuses it, cannot be reached, or names files outside of the folder.
    """
    headers = token_headers(endpoint)
    read = _huggingface if endpoint.source == "huggingface" else _modelscope
    listing = read(endpoint, model, revision, headers)
    _require_safe_names([file.name for file in listing.files])
    return msgspec.structs.replace(listing, files=[file for file in listing.files if not is_ours(file.name)])


def require_access(listing: Listing, file: RemoteFile) -> None:
    """Make sure that a file is given to us: Hugging Face lists gated models for everyone, and keeps their files back.

    Raises:
        HubFailure: it is refused.
    """
    if listing.endpoint.source != "huggingface":
        return
    headers = token_headers(listing.endpoint)
    try:
        answer = ask(listing.url(file.name), headers=headers, method="HEAD")
    except HubFailure:
        return  # nothing is known by that; the download will see
    if answer.status in {401, 403}:
        raise _refusal(answer, revision=None, token=bool(headers))


def _require_safe_names(names: list[str]) -> None:
    """Make sure that every file lies inside of the model's folder.

    Raises:
        HubFailure: one does not, or the names contradict each other.
    """
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for name in names:
        parts = name.split("/")
        if name.startswith("/") or "\0" in name or any(part in {"", ".", ".."} for part in parts) or name in folders:
            raise HubFailure("unsafe", f"it lists {name[:200]!r}, which is no file inside of a model's folder")


# ── Hugging Face ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _huggingface(endpoint: HubEndpoint, model: str, revision: str | None, headers: Headers) -> Listing:
    base = f"{endpoint.shown}/api/models/{model}"
    url = f"{base}/revision/{quote(revision, safe='')}" if revision else base
    answer = ask(url, headers=headers, query={"blobs": "true"})
    document = answer.document
    if answer.status != 200 or not isinstance(document, dict):
        raise _refusal(answer, revision=revision, token=bool(headers))
    commit = _commit(document.get("sha"))
    files = [_sibling(entry) for entry in document.get("siblings") or [] if isinstance(entry, dict)]
    named = commit or revision or "main"
    if any(file is None for file in files):  # an endpoint that does not know `blobs`: the tree has sizes and hashes too
        files = list(_tree(f"{base}/tree/{quote(named, safe='')}", headers))
    known = [file for file in files if file is not None]
    private = document.get("private") is True
    return Listing(endpoint=endpoint, id=model, revision=named, commit=commit, files=known, private=private)


def _sibling(entry: dict[str, Any]) -> RemoteFile | None:
    name, size, large = entry.get("rfilename"), entry.get("size"), entry.get("lfs")
    if not isinstance(name, str) or not isinstance(size, int):
        return None
    if isinstance(large, dict):
        return RemoteFile(name=name, size=size, sha256=_hex(large.get("sha256"), 64))
    return RemoteFile(name=name, size=size, sha1=_hex(entry.get("blobId"), 40))


def _tree(url: str, headers: Headers) -> Iterator[RemoteFile]:
    """Yield the files of the paginated list: `oid` is git's hash, and that of a large file's content in `lfs`."""
    place: str | None = f"{url}?recursive=true"
    for _ in range(_PAGES):
        if place is None:
            return
        answer = ask(place, headers=headers)
        if answer.status != 200 or not isinstance(answer.document, list):
            raise _refusal(answer, revision=None, token=bool(headers))
        for entry in answer.document:
            if isinstance(entry, dict) and entry.get("type") == "file":
                large = entry.get("lfs")
                if isinstance(large, dict):
                    yield RemoteFile(name=str(entry["path"]), size=entry["size"], sha256=_hex(large.get("oid"), 64))
                else:
                    yield RemoteFile(name=str(entry["path"]), size=entry["size"], sha1=_hex(entry.get("oid"), 40))
        link = _NEXT.search(answer.headers.get("link", ""))
        # Only its words are taken: a page of another host would get the token, or be asked without it.
        place = f"{url}?{urljoin(url, link[1]).partition('?')[2]}" if link else None
    raise HubFailure("network", "its list of files has no end")


def _refusal(answer: Answer, *, revision: str | None, token: bool) -> HubFailure:
    """Return what an answer without a list means; Hugging Face says it in X-Error-Code."""
    code, said = answer.headers.get("x-error-code", ""), answer.words()
    if code == "RevisionNotFound":
        return HubFailure("revision", _NO_REVISION)
    if code == "GatedRepo" or answer.status == 403:
        return HubFailure("gated", said or f"answers HTTP {answer.status}")
    if answer.status == 401 and token and code != "RepoNotFound":
        return HubFailure("gated", f"it does not accept the token that is set ({said or 'HTTP 401'})")
    # To someone without a token, a private model and none at all look the same.
    if code == "RepoNotFound" or answer.status in {401, 404}:
        by_words = revision is not None and "rev" in said.lower()
        return HubFailure("revision", _NO_REVISION) if by_words else HubFailure("missing", _NO_MODEL)
    return HubFailure("network", f"answers HTTP {answer.status}{f': {said}' if said else ''}")


# ── ModelScope ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _modelscope(endpoint: HubEndpoint, model: str, revision: str | None, headers: Headers) -> Listing:
    base = f"{endpoint.shown}/api/v1/models/{model}"
    asked = revision or "master"
    data = _data(base, asked, headers, recursive=True, revision=revision)
    entries = _entries(data)
    if len(entries) >= _CUT:
        entries = list(_walk(base, asked, headers))
    latest = data.get("LatestCommitter")
    commit = _commit(latest.get("Id")) if isinstance(latest, dict) else None
    files = [
        RemoteFile(name=str(entry["Path"]), size=int(entry.get("Size") or 0), sha256=_hex(entry.get("Sha256"), 64))
        for entry in entries
        if entry.get("Type") != "tree" and entry.get("Path")
    ]
    return Listing(endpoint=endpoint, id=model, revision=commit or asked, commit=commit, files=files)


def _data(
    base: str, asked: str, headers: Headers, *, recursive: bool, revision: str | None = None, root: str = ""
) -> dict[str, Any]:
    words = {"Revision": asked, "Recursive": str(recursive), **({"Root": root} if root else {})}
    answer = ask(f"{base}/repo/files", headers=headers, query=words)
    document = answer.document if isinstance(answer.document, dict) else {}
    code = document.get("Code") if answer.status == 200 else answer.status
    data = document.get("Data")
    if code == 200 and isinstance(data, dict):
        return data
    if code in {401, 403}:
        raise HubFailure("gated", answer.words() or f"answers HTTP {code}")
    if code == 404 and revision is not None and ask(base, headers=headers).status == 200:
        raise HubFailure("revision", _NO_REVISION)
    if code == 404:
        raise HubFailure("missing", _NO_MODEL)
    raise HubFailure("network", f"answers {code}{f': {answer.words()}' if answer.words() else ''}")


def _entries(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in data.get("Files") or [] if isinstance(entry, dict)]


def _walk(base: str, asked: str, headers: Headers) -> Iterator[dict[str, Any]]:
    """Yield the entries folder by folder, for a repository whose whole list is cut off."""
    folders, seen = [""], 0
    while folders:
        seen += 1
        if seen > _PAGES:
            raise HubFailure("network", "its list of files has no end")
        for entry in _entries(_data(base, asked, headers, recursive=False, root=folders.pop())):
            if entry.get("Type") == "tree":
                folders.append(str(entry.get("Path") or ""))
            else:
                yield entry


def _commit(value: object) -> str | None:
    return value if isinstance(value, str) and _COMMIT.fullmatch(value) else None


def _hex(value: object, length: int) -> str | None:
    """Return a hash that is one, else None: what a hub leaves out is not known."""
    text = str(value or "").lower()
    return text if len(text) == length and all(sign in "0123456789abcdef" for sign in text) else None
