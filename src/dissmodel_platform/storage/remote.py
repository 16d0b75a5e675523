"""Inputs from the Internet: ``http(s)`` addresses, fetched without being led astray.

* Every name is resolved once, all of its addresses are checked, and the connection goes to one of
  the addresses checked: the request's URL holds the address, ``Host`` and TLS the name (httpx's
  ``sni_hostname`` extension is made for this), so a name server that changes its answer between the
  check and the connection gains nothing. The certificate is verified against the name.
* Redirects are followed here, one by one, each as a new address to check.
* The environment's proxies and ``.netrc`` are not used: a proxy would resolve the name anew.
  ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, the operator's own authorities, are.
* The bytes kept and hashed are those that came: compression is refused rather than undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

import httpx

from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.storage.addresses import Address, Resolver, is_public, resolve_by_system
from dissmodel_platform.storage.partial import PartialFile, StoredObject

MAX_REDIRECTS = 5
MAX_URL_CHARACTERS = 4096

_CONNECT_SECONDS = 10.0
_CHUNK_BYTES = 1024**2
_INSTEAD = "or download it yourself and send it with POST /data/upload."
# Servers mark a file that *is* compressed as one that was compressed for the journey
# (Apache's AddEncoding does); its bytes are the file's own.
_COMPRESSED_SUFFIXES = (".gz", ".tgz")
# Buckets whose content may not be listed answer 403 for a file that they do not have.
_ABSENT = frozenset({httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND, httpx.codes.GONE})


class NothingThere(InvalidInput):
    """There is no file at an address, or none that may be read."""


async def check_http_url(
    url: str,
    *,
    allow_private: bool,
    resolver: Resolver = resolve_by_system,
    timeout_seconds: float = 10.0,
) -> None:
    """See whether `fetch_http` would refuse an address, without connecting to it.

    Parameters
    ----------
    url : str
        What a user named.
    allow_private : bool
        Whether loopback, private and link-local addresses are fine.
    resolver : Resolver, optional
        Finds the name's addresses.
    timeout_seconds : float, optional
        How long that may take.

    Raises
    ------
    InvalidInput
        Not an ``http(s)`` address, one with credentials, an unknown name, or a private address.
    """
    target = _parse(url)
    try:
        async with asyncio.timeout(timeout_seconds):
            await _addresses(target, allow_private, resolver)
    except TimeoutError as error:
        raise InvalidInput(
            f"The name of {_shown(target)} could not be looked up within {timeout_seconds:g} s; "
            f"try again, {_INSTEAD}"
        ) from error


async def fetch_http(
    url: str,
    destination: Path,
    *,
    max_bytes: int,
    allow_private: bool,
    timeout_seconds: float = 3600.0,
    stall_seconds: float = 60.0,
    resolver: Resolver = resolve_by_system,
    count: Callable[[int], None] | None = None,
) -> StoredObject:
    """Download a file, which appears at `destination` whole or not at all.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://`` address that answers GET with the file.
    destination : Path
        Where the file is to appear; its directory exists.
    max_bytes : int
        Largest file to take, in bytes.
    allow_private : bool
        Whether loopback, private and link-local addresses are fine.
    timeout_seconds : float, optional
        Limit for everything together, redirects included.
    stall_seconds : float, optional
        Limit for one wait on the server.
    resolver : Resolver, optional
        Finds a name's addresses; asked once for each address that is followed.
    count : callable, optional
        Called with the number of bytes of each piece; what it raises ends the download.

    Raises
    ------
    NothingThere
        The server answers that there is no such file, or none for us.
    InvalidInput
        The address is refused, does not answer with a file, or the file is too large or came
        incomplete; the sentence says which and what to do.
    StorageError
        The file cannot be written here.
    """
    target = _parse(url)
    try:
        async with asyncio.timeout(timeout_seconds):
            tls = await asyncio.to_thread(httpx.create_ssl_context)
            for _ in range(MAX_REDIRECTS + 1):
                addresses = await _addresses(target, allow_private, resolver)
                async with _answer(target, addresses, tls, stall_seconds) as response:
                    if not response.has_redirect_location:
                        return await _receive(response, target, destination, max_bytes, count)
                    target = _redirected(target, response)
    except TimeoutError as error:
        raise InvalidInput(
            f"{_shown(target)} did not arrive within {timeout_seconds:g} s; try again, {_INSTEAD}"
        ) from error
    raise InvalidInput(
        f"{_shown(_parse(url))} redirects more than {MAX_REDIRECTS} times; "
        "give the address that it ends at."
    )


def _parse(text: str, base: httpx.URL | None = None) -> httpx.URL:
    if len(text) > MAX_URL_CHARACTERS:
        raise InvalidInput(f"The address has over {MAX_URL_CHARACTERS} characters; shorten it.")
    try:
        url = base.join(text) if base else httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidInput(f"This is not a web address: {error}. Correct it.") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidInput("This is not a web address: it must start with https:// and a host.")
    if url.userinfo:
        raise InvalidInput(
            f"The address of {url.host} holds a user name or password, which would be kept in the "
            f"record: remove it; open addresses alone are fetched, {_INSTEAD}"
        )
    return url


async def _addresses(url: httpx.URL, allow_private: bool, resolver: Resolver) -> Sequence[Address]:
    host = url.raw_host.decode("ascii")
    try:
        addresses: Sequence[Address] = [ip_address(host)]
    except ValueError:
        try:
            addresses = await resolver(host, url.port or (443 if url.scheme == "https" else 80))
        except (OSError, UnicodeError, ValueError) as error:
            raise InvalidInput(
                f"The name {url.host!r} is not known; see that it is spelt right."
            ) from error
    if not addresses:
        raise InvalidInput(f"The name {url.host!r} has no address; see that it is spelt right.")
    if not allow_private and not all(is_public(address) for address in addresses):
        raise InvalidInput(
            f"{_shown(url)} leads to a private or local address, which is not fetched from here; "
            "give a public address, or upload the file with POST /data/upload."
        )
    return addresses


@contextlib.asynccontextmanager
async def _answer(
    url: httpx.URL, addresses: Sequence[Address], tls: ssl.SSLContext, stall_seconds: float
) -> AsyncIterator[httpx.Response]:
    """Ask for `url` at the first of `addresses` that takes the connection."""
    client = httpx.AsyncClient(
        verify=tls,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(stall_seconds, connect=_CONNECT_SECONDS),
        headers={
            "Host": url.netloc.decode("ascii"),
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": "dissmodel-platform",
        },
    )
    named = {"sni_hostname": url.raw_host.decode("ascii").rstrip(".")}
    try:
        async with client:
            response = await _first_to_connect(client, url, addresses, named)
            try:
                yield response
            finally:
                await response.aclose()
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        why = "its certificate is not valid" if "CERTIFICATE" in str(error) else "no connection"
        raise InvalidInput(
            f"{_shown(url)} cannot be reached ({why}); see that the address is right, {_INSTEAD}"
        ) from error
    except httpx.TimeoutException as error:
        raise InvalidInput(
            f"{_shown(url)} sent nothing for {stall_seconds:g} s; try again, {_INSTEAD}"
        ) from error
    except httpx.HTTPError as error:
        raise InvalidInput(
            f"{_shown(url)} broke off before the whole file had come; try again, {_INSTEAD}"
        ) from error


async def _first_to_connect(
    client: httpx.AsyncClient, url: httpx.URL, addresses: Sequence[Address], named: dict[str, str]
) -> httpx.Response:
    *others, last = addresses
    for address in others:
        request = client.build_request("GET", url.copy_with(host=str(address)), extensions=named)
        with contextlib.suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await client.send(request, stream=True)
    request = client.build_request("GET", url.copy_with(host=str(last)), extensions=named)
    return await client.send(request, stream=True)


def _redirected(url: httpx.URL, response: httpx.Response) -> httpx.URL:
    following = _parse(response.headers["location"], base=url)
    if url.scheme == "https" and following.scheme != "https":
        raise InvalidInput(
            f"{_shown(url)} redirects to an address without encryption, where anybody on the way "
            f"could change the file; give the https address, {_INSTEAD}"
        )
    return following


async def _receive(
    response: httpx.Response,
    url: httpx.URL,
    destination: Path,
    max_bytes: int,
    count: Callable[[int], None] | None,
) -> StoredObject:
    if response.status_code != httpx.codes.OK:
        is_absent = response.status_code in _ABSENT
        raise (NothingThere if is_absent else InvalidInput)(
            f"{_shown(url)} answered {response.status_code} {response.reason_phrase}, not with a "
            f"file; give an address that opens without signing in, {_INSTEAD}"
        )
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity" and not url.path.lower().endswith(_COMPRESSED_SUFFIXES):
        raise InvalidInput(
            f"{_shown(url)} sends the file {coding[:20]}-compressed although it was asked not to; "
            f"give another address, {_INSTEAD}"
        )
    too_large = InvalidInput(
        f"{_shown(url)} is larger than the {max_bytes} bytes that are taken here; give a smaller "
        "file, or ask the operator to raise PLATFORM_MAX_INPUT_BYTES."
    )
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    size_bytes = 0
    async with PartialFile(destination) as partial:
        async for chunk in response.aiter_raw(_CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > max_bytes:
                raise too_large
            if count is not None:
                count(len(chunk))
            await partial.write(chunk)
        return await partial.keep()


def _shown(url: httpx.URL) -> str:
    """Return the address without its query, which may hold a signature."""
    return str(url.copy_with(query=None, fragment=None))
