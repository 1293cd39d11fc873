"""Files of data sets: read where they lie, fetched where they do not, and held to the hash of their content.

They are looked for in the folder that the environment variable ``TIGHTBOUND_DATA`` names, if it names one, then in
the cache (``~/.cache/tightbound``, or where the system keeps such things). What is missing or damaged in both is
fetched from its public home into the cache, with a progress bar, and appears there whole or not at all. The first
folder is never written to.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pooch

VARIABLE = "TIGHTBOUND_DATA"
SECONDS = 30  # without a byte from the server

Unpack = Callable[[bytes], bytes]


class File(NamedTuple):
    """One file of a data set.

    Attributes:
        name: its path in a folder of data, once unpacked: ``"mnist/train-labels-idx1-ubyte"``.
        digest: the SHA-256 of its content, unpacked (copies are compressed in many ways, their content is one); or
            ``"md5:..."``, where nothing else is published.
        url: its public home; empty where it has none, and is only read.
        unpack: makes the content from the bytes that lie at `url`.
        others: further forms in which a folder may hold it, each a path and what unpacks it.
    """

    name: str
    digest: str
    url: str = ""
    unpack: Unpack = bytes
    others: tuple[tuple[str, Unpack], ...] = ()

    @property
    def as_fetched(self) -> str:
        """The path, in a folder of data, of a file that was fetched by hand and left as it came."""
        return str(PurePosixPath(self.name).parent / PurePosixPath(self.url or self.name).name)

    @property
    def forms(self) -> dict[str, Unpack]:
        """All paths at which a folder may hold it, with what unpacks each."""
        return {self.as_fetched: self.unpack, **dict(self.others), self.name: bytes}


def read(file: File) -> bytes:
    """The content of a file of data, checked; fetched if it must be.

    Raises:
        NotADirectoryError: where ``TIGHTBOUND_DATA`` names no folder.
        OSError: where the file is in no folder and cannot be fetched; names the folder to fill by hand.
    """
    folders = _folders()
    for folder in folders:
        for path, unpack in file.forms.items():
            content = _content(folder / path, unpack, file.digest)
            if content is not None:
                return content
    if not file.url:
        raise FileNotFoundError(f"{file.name} is not on this machine, and has no public home in this form: save it as "
                                f"{folders[0] / file.name}")
    try:
        return _fetch(file)
    except (OSError, ValueError) as problem:  # what requests raises is an OSError, a wrong hash a ValueError
        raise OSError(f"{file.name} is not on this machine and could not be fetched: try again, or save {file.url} "
                      f"by other means as {folders[0] / file.as_fetched} (the reason was: {problem})") from None


def _folders() -> list[Path]:
    named = os.environ.get(VARIABLE)
    if named and not Path(named).is_dir():
        raise NotADirectoryError(f"{VARIABLE} names {named}, which is no folder: name the folder that holds the "
                                 "data, or unset it")
    return [*([Path(named)] if named else []), Path(pooch.os_cache("tightbound"))]


def _content(path: Path, unpack: Unpack, digest: str) -> bytes | None:
    """What the file at the path holds, or None if there is no such file or it is damaged."""
    if not path.is_file():
        return None
    algorithm, _, value = digest.rpartition(":")
    try:
        content = _unpacked(unpack, path.read_bytes())
        if hashlib.new(algorithm or "sha256", content).hexdigest() == value:
            return content
    except ValueError:
        pass
    warnings.warn(f"{path} is damaged: its content should have the hash {digest}. Another copy is looked for.",
                  stacklevel=3)
    return None


def _fetch(file: File) -> bytes:
    """Fetches into the cache (pooch writes beside, checks the hash, tries twice, then moves) and reads."""
    cache = pooch.create(pooch.os_cache("tightbound"), "", registry={file.name: file.digest},
                         urls={file.name: file.url}, retry_if_failed=1)
    (cache.abspath / file.name).parent.mkdir(parents=True, exist_ok=True)  # pooch stumbles where two processes make it at once
    return Path(cache.fetch(file.name, downloader=partial(_download, file.unpack))).read_bytes()


def _download(unpack: Unpack, url: str, path: str, _: pooch.Pooch) -> None:
    pooch.HTTPDownloader(progressbar=True, timeout=SECONDS)(url, path, None)
    Path(path).write_bytes(_unpacked(unpack, Path(path).read_bytes()))


def _unpacked(unpack: Unpack, packed: bytes) -> bytes:
    """As `unpack`, but whatever shows that the bytes are damaged is a ValueError."""
    try:
        return unpack(packed)
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as problem:
        raise ValueError(f"the file is damaged: {problem}") from problem


def known(name: str, among: Iterable[str], what: str) -> str:
    """The name itself; or a ValueError that says which there are."""
    if name not in among:
        raise ValueError(f"unknown {what} {name!r}: choose from {', '.join(among)}")
    return name
