"""Webhooks of git forges: genuine ones, for the served branch, taken once.

GitHub signs the raw body (``X-Hub-Signature-256: sha256=<hex>``), Gitea and Forgejo too
(``X-Gitea-Signature``, ``X-Forgejo-Signature``: ``<hex>``), both HMAC-SHA-256; GitLab sends the
secret itself (``X-Gitlab-Token``).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from dissmodel_platform.database.pool import Connection, execute
from dissmodel_platform.errors import InvalidInput, NotAuthorised

MAX_BODY_BYTES = 1024**2
"""Largest body that is read, in bytes."""

_SCP = re.compile(r"(?:[^@/]+@)?([^:/]+):(?!//)(.+)")


class Forge(StrEnum):
    """A kind of git forge; names the path of its webhook."""

    GITHUB = "github"
    GITLAB = "gitlab"
    GITEA = "gitea"
    FORGEJO = "forgejo"


@dataclass(frozen=True)
class Delivery:
    """A genuine webhook.

    Attributes
    ----------
    id : str
        The forge's own number of the delivery; the body's checksum where it sends none.
    event : str
        Kind of event, lower case.
    branch : str or None
        Branch that was pushed to; ``None`` for other events.
    repositories : frozenset of str
        Addresses of the repository, in the form of :func:`normalised_address`.
    """

    id: str
    event: str
    branch: str | None
    repositories: frozenset[str]


def read_delivery(forge: Forge, headers: Mapping[str, str], body: bytes, secret: str) -> Delivery:
    """Check a webhook's signature over its raw body, then read it.

    Parameters
    ----------
    headers : mapping of str to str
        Of the request; names in any case, values as ISO 8859-1 (as servers read them).

    Raises
    ------
    NotAuthorised
        The signature is missing or wrong.
    InvalidInput
        The body is not what the forge sends.
    """
    given = {name.lower(): value for name, value in headers.items()}
    if not _is_genuine(forge, given, body, secret):
        raise NotAuthorised(
            "The webhook's signature is missing or wrong; set the same secret in the forge and in "
            "PLATFORM_WEBHOOK_SECRET."
        )
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("The webhook's body is no JSON; choose application/json.") from error
    if not isinstance(payload, dict):
        raise InvalidInput("The webhook's body is no JSON object.")
    event = given.get(_EVENT_HEADERS[forge], "").lower().removesuffix(" hook")
    ref = payload.get("ref")
    is_push = event == "push" and isinstance(ref, str) and ref.startswith("refs/heads/")
    return Delivery(
        id=given.get(_DELIVERY_HEADERS[forge]) or hashlib.sha256(body).hexdigest(),
        event=event,
        branch=str(ref).removeprefix("refs/heads/") if is_push else None,
        repositories=frozenset(_addresses(payload)),
    )


def is_for(delivery: Delivery, remote: str, branch: str | None) -> bool:
    """Say whether a delivery is a push to the branch that is served.

    Parameters
    ----------
    remote : str
        ``CONFIGS_REPO``.
    branch : str or None
        ``CONFIGS_BRANCH``; ``None``: the remote's default, which a push may have become.
    """
    if delivery.branch is None or normalised_address(remote) not in delivery.repositories:
        return False
    return branch is None or branch == delivery.branch


async def take_once(connection: Connection, forge: Forge, delivery_id: str) -> bool:
    """Note a delivery; false when it was taken before.

    What it asks for belongs into the same transaction: a delivery that is sent again because the
    first answer failed is then taken.
    """
    noted = await execute(
        connection,
        "INSERT INTO webhook_deliveries (forge, delivery_id) VALUES (%(forge)s, %(id)s)"
        " ON CONFLICT DO NOTHING",
        forge=forge.value,
        id=delivery_id[:200],
    )
    return bool(noted)


def normalised_address(address: str) -> str:
    """Return host and path of a repository, the same for its https and ssh addresses.

    What is no address stands for itself.
    """
    scp = _SCP.fullmatch(address) if "://" not in address else None
    if scp is not None:
        host, path = scp.group(1), scp.group(2)
    else:
        try:
            parts = urlsplit(address)
        except ValueError:
            return address
        host, path = parts.hostname or "", parts.path
    return f"{host.lower()}/{path.strip('/').removesuffix('.git').lower()}"


_DELIVERY_HEADERS = {
    Forge.GITHUB: "x-github-delivery",
    Forge.GITLAB: "x-gitlab-event-uuid",
    Forge.GITEA: "x-gitea-delivery",
    Forge.FORGEJO: "x-forgejo-delivery",
}
_EVENT_HEADERS = {
    Forge.GITHUB: "x-github-event",
    Forge.GITLAB: "x-gitlab-event",
    Forge.GITEA: "x-gitea-event",
    Forge.FORGEJO: "x-forgejo-event",
}
_SIGNATURE_HEADERS = {
    Forge.GITHUB: "x-hub-signature-256",
    Forge.GITEA: "x-gitea-signature",
    Forge.FORGEJO: "x-forgejo-signature",
}


def _is_genuine(forge: Forge, headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    if forge is Forge.GITLAB:
        given = headers.get("x-gitlab-token", "")
        expected = secret
    else:
        given = headers.get(_SIGNATURE_HEADERS[forge], "").removeprefix("sha256=")
        expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    sent = given.encode("latin-1", "backslashreplace")  # the bytes that came
    return hmac.compare_digest(sent, expected.encode("utf-8"))


def _addresses(payload: Mapping[str, Any]) -> set[str]:
    """Collect the addresses under which a payload names its repository."""
    found: set[str] = set()
    for key in ("repository", "project"):
        repository = payload.get(key)
        if isinstance(repository, Mapping):
            for name in (
                "clone_url", "ssh_url", "html_url", "git_http_url", "git_ssh_url", "http_url",
                "url", "web_url",
            ):  # fmt: skip
                value = repository.get(name)
                if isinstance(value, str):
                    found.add(normalised_address(value))
    return found
