"""Fetching a weight file, where the user has asked for it. Everything else in this folder works without a network."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .backbones.base import BackboneSpec, HubFile
from .weights import companion

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

_BLOCK = 2**20
REDIRECTS = 8
DownloadProgress = Callable[[int, int], None]


async def download(spec: BackboneSpec, folder: Path, progress: DownloadProgress) -> Path:
    """Fetch the weights of a backbone, and what belongs beside them, into `folder`, under the names that `find_weights`
    looks for.

    The checksum is that of the spec, or the one that Hugging Face gives with the file (SHA-256); a file without one is
    not taken. progress: called with the bytes so far and in all; what it raises ends the download. Nothing half-written
    stays.

    Raises:
        ValueError: no source is known, or the content is not what was promised.
        OSError: the server cannot be reached, or the disk is full; the text says which.
    """
    import aiohttp

    if spec.hub:
        address, sha256 = hub_address(spec.hub[0]), spec.hub[0].sha256
    elif spec.url:
        address, sha256 = spec.url, spec.sha256
    else:
        raise ValueError(f"There is no download for {spec.name}: get {spec.source}.")
    timeout = aiohttp.ClientTimeout(total=None, connect=30, sock_read=60)
    target = folder / own_name(spec)
    try:
        # trust_env: proxies as the machine has them
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
            for file in spec.beside:
                address_beside, place = hub_address(file), target.with_name(f"{target.stem}.{file.name}")
                if not companion(target, file.name).is_file():
                    await _fetch(session, address_beside, file.sha256, place, progress)
            if spec.beside and target.is_file():
                return target
            return await _fetch(session, address, sha256, target, progress)
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise OSError(
            f"The weights of {spec.name} could not be downloaded from {address} ({reason}). Check the "
            f"connection, or get {spec.source} by hand."
        ) from error


def own_name(spec: BackboneSpec) -> str:
    """The name under which a download is kept: the first that `find_weights` looks for of the same kind of file."""
    suffix = Path(spec.hub[0].name).suffix if spec.hub else ""
    return next((name for name in spec.files if name.endswith(suffix)), spec.files[0])


def hub_address(file: HubFile) -> str:
    """The address of a file of Hugging Face; HF_ENDPOINT names a mirror, as it does for Hugging Face's own programs."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{file.repository}/resolve/main/{file.name}"


async def _fetch(session: ClientSession, address: str, sha256: str, target: Path, progress: DownloadProgress) -> Path:
    """Fetch one file, by way of a temporary one beside it."""
    answer, promised = await _answer(session, address)
    promised = sha256 or promised
    async with answer:
        answer.raise_for_status()
        if not promised:
            raise ValueError(f"{address} has no checksum, so the download cannot be verified.")
        total = int(answer.headers.get("Content-Length", 0))
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.", suffix=".part")
        try:
            content, done = hashlib.sha256(), 0
            with os.fdopen(handle, "wb") as file:
                async for block in answer.content.iter_chunked(_BLOCK):
                    file.write(block)
                    content.update(block)
                    done += len(block)
                    progress(done, total)
            if not content.hexdigest().startswith(promised):
                raise ValueError(
                    f"The download from {address} is not the expected file (SHA-256 {content.hexdigest()} "
                    f"instead of {promised}); try again later."
                )
            os.chmod(part, 0o644)  # mkstemp makes it private
            os.replace(part, target)
        except BaseException:
            os.unlink(part)
            raise
    return target


async def _answer(session: ClientSession, address: str) -> tuple[ClientResponse, str]:
    """The answer after all redirects, and the checksum that Hugging Face's first answer gives."""
    from yarl import URL

    promised = ""
    for _ in range(REDIRECTS):
        answer = await session.get(address, allow_redirects=False)
        # The ETag of a large file is its SHA-256; that of a small one is git's and shorter.
        match = re.search("[0-9a-f]{64}", answer.headers.get("X-Linked-Etag", ""))
        promised = promised or (match.group() if match else "")
        if answer.status not in (301, 302, 303, 307, 308):
            return answer, promised
        address = str(answer.url.join(URL(answer.headers["Location"])))
        answer.release()
    raise ValueError(f"{address} redirects without end.")
