"""Files from web addresses and `data:` URLs, at most `limits.MAX_BYTES` each, measured while they are read.

A web address is followed to public addresses alone: the name is resolved first and the connection made to the address
that was checked, at every redirect (safehttpx does that). What was read is stored under its content's digest, written
under another name and renamed, so that no one reads half a file.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import safehttpx
from gradio.processing_utils import PUBLIC_HOSTNAME_WHITELIST

from t4s.errors import ImageError
from t4s.limits import MAX_BYTES, MAX_FETCH_SECONDS

MAX_REDIRECTS = 5
PLAIN = {"Accept-Encoding": "identity"}  # packed bytes would have to be unpacked to be measured
_TOO_LARGE = f"is larger than the {MAX_BYTES // 10**6} MB that are allowed; save it smaller."


def is_address(text: str) -> bool:
    """True for a web address and a `data:` URL."""
    return text[:8].lower().startswith(("http://", "https://", "data:"))


async def fetch(address: str, folder: Path) -> Path:
    """The file of a web address or a `data:` URL, in a folder of its own below `folder`. Raises ImageError."""
    if address[:5].lower() == "data:":
        return store(_decoded(address), "file", folder)
    try:
        async with asyncio.timeout(MAX_FETCH_SECONDS):
            data = await _download(address)
    except TimeoutError as error:
        raise ImageError(f"The address did not answer within {MAX_FETCH_SECONDS} seconds; upload the file.") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            "The address cannot be fetched: there is no such public host, or it does not answer; upload the file."
        ) from error
    return store(data, Path(urlsplit(address).path).name, folder)


def store(data: bytes, name: str, folder: Path) -> Path:
    """A file with these contents, named by them. `name` is kept as far as it is a plain file name."""
    plain = re.sub(r"[^\w.-]+", "_", unquote(name))[-60:].lstrip(".") or "file"
    place = folder / hashlib.sha256(data).hexdigest() / plain
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=place.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, place)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return place


def _decoded(address: str) -> bytes:
    header, comma, text = address.partition(",")
    if header.lower().startswith("data:image/svg"):
        raise ImageError("An SVG is a drawing; give a photo: JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF or PPM.")
    if not comma or not header.lower().endswith(";base64"):
        raise ImageError("A data: URL has the form data:image/png;base64,… ; this one has not.")
    if len(text) > 4 * MAX_BYTES // 3 + 4:
        raise ImageError(f"The data: URL {_TOO_LARGE}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("The data: URL is not valid base64; encode the file again.") from error


async def _download(address: str) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        async with (
            httpx.AsyncClient(transport=await transport(address), timeout=MAX_FETCH_SECONDS, headers=PLAIN) as client,
            client.stream("GET", address, follow_redirects=False) as response,
        ):
            if response.has_redirect_location:
                address = urljoin(address, response.headers["Location"])
                continue
            if response.status_code != 200:
                raise ImageError(f"The address answers with status {response.status_code} and no file; check it.")
            return await _body(response)
    raise ImageError(f"The address leads on and on: more than {MAX_REDIRECTS} redirects; give the last one.")


async def _body(response: httpx.Response) -> bytes:
    if int(response.headers.get("Content-Length") or 0) > MAX_BYTES:
        raise ImageError(f"The file at the address {_TOO_LARGE}")
    data = bytearray()
    async for chunk in response.aiter_raw(65_536):
        data += chunk
        if len(data) > MAX_BYTES:
            raise ImageError(f"The file at the address {_TOO_LARGE}")
    return bytes(data)


async def transport(address: str) -> httpx.AsyncBaseTransport | None:
    """How to reach an address: at a public IP that its name stands for. Raises ValueError if it has none."""
    host = httpx.URL(address).host
    if not host:
        raise ValueError("no host")
    if safehttpx.matches_domain_whitelist(host, PUBLIC_HOSTNAME_WHITELIST):
        return None
    return safehttpx.AsyncSecureTransport(await safehttpx.async_validate_url(host))
