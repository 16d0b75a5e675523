"""Webhooks: what a forge really sends is taken, what only looks like it is not."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.errors import InvalidInput, NotAuthorised
from dissmodel_platform.registry.webhooks import (
    Forge,
    is_for,
    normalised_address,
    read_delivery,
)

SECRET = "a secret of the forge"
REPOSITORY = {
    "clone_url": "https://git.example.org/Group/dissmodel-configs.git",
    "ssh_url": "git@git.example.org:Group/dissmodel-configs.git",
}
BODY = json.dumps({"ref": "refs/heads/main", "repository": REPOSITORY}).encode()


def signature(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def headers(forge: Forge, body: bytes = BODY, secret: str = SECRET) -> dict[str, str]:
    return {
        Forge.GITHUB: {
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": "1",
            "X-Hub-Signature-256": f"sha256={signature(body, secret)}",
        },
        Forge.GITLAB: {
            "X-Gitlab-Event": "Push Hook",
            "X-Gitlab-Event-UUID": "1",
            "X-Gitlab-Token": secret,
        },
        Forge.GITEA: {
            "X-Gitea-Event": "push",
            "X-Gitea-Delivery": "1",
            "X-Gitea-Signature": signature(body, secret),
        },
        Forge.FORGEJO: {
            "X-Forgejo-Event": "push",
            "X-Forgejo-Delivery": "1",
            "X-Forgejo-Signature": signature(body, secret),
        },
    }[forge]


@pytest.mark.parametrize("forge", Forge)
def test_a_genuine_push_is_read(forge: Forge) -> None:
    delivery = read_delivery(forge, headers(forge), BODY, SECRET)
    assert (delivery.id, delivery.event, delivery.branch) == ("1", "push", "main")
    for address in (*REPOSITORY.values(), "ssh://git@git.example.org/group/dissmodel-configs"):
        assert is_for(delivery, address, "main")
        assert is_for(delivery, address, None)


@pytest.mark.parametrize("forge", Forge)
def test_a_wrong_secret_or_a_changed_body_is_refused(forge: Forge) -> None:
    with pytest.raises(NotAuthorised):
        read_delivery(forge, headers(forge, secret="another"), BODY, SECRET)
    with pytest.raises(NotAuthorised):
        read_delivery(forge, {}, BODY, SECRET)
    if forge is not Forge.GITLAB:
        with pytest.raises(NotAuthorised):
            read_delivery(forge, headers(forge), BODY + b" ", SECRET)


def test_an_odd_signature_is_refused_like_a_wrong_one() -> None:
    for odd in ("", "sha256=", "sha256=é", "\udcff", "x" * 10_000):
        with pytest.raises(NotAuthorised):
            read_delivery(Forge.GITHUB, {"x-hub-signature-256": odd}, BODY, SECRET)


@pytest.mark.parametrize("forge", Forge)
def test_a_secret_may_be_any_text(forge: Forge) -> None:
    secret = "ação 土地"
    sent = {
        name: value.encode().decode("latin-1")  # as an HTTP server reads what the forge sends
        for name, value in headers(forge, secret=secret).items()
    }
    assert read_delivery(forge, sent, BODY, secret).branch == "main"
    with pytest.raises(NotAuthorised):
        read_delivery(forge, sent, BODY, "ação 土")


@pytest.mark.parametrize(
    "body", [b"[" * 500_000, b'{"a":' * 200_000, b"1" * 5000, b"\xff\xfe", b"null"]
)
def test_a_genuine_body_that_is_no_object_is_refused_as_input(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_delivery(Forge.GITHUB, headers(Forge.GITHUB, body), body, SECRET)


def test_an_address_that_is_none_hides_no_other() -> None:
    repository = {**REPOSITORY, "html_url": "http://[bad", "url": "https://a]b/"}
    body = json.dumps({"ref": "refs/heads/main", "repository": repository}).encode()
    delivery = read_delivery(Forge.GITHUB, headers(Forge.GITHUB, body), body, SECRET)
    assert is_for(delivery, REPOSITORY["clone_url"], "main")
    assert not is_for(delivery, "http://[worse", "main")


def test_other_repositories_branches_and_events_are_not_for_us() -> None:
    delivery = read_delivery(Forge.GITHUB, headers(Forge.GITHUB), BODY, SECRET)
    address = REPOSITORY["clone_url"]
    assert not is_for(delivery, "https://git.example.org/other/repository", "main")
    assert not is_for(delivery, "https://elsewhere.example.org/Group/dissmodel-configs", "main")
    assert not is_for(delivery, address, "develop")
    tag = json.dumps({"ref": "refs/tags/v1", "repository": REPOSITORY}).encode()
    delivery = read_delivery(Forge.GITHUB, headers(Forge.GITHUB, tag), tag, SECRET)
    assert not is_for(delivery, address, None)
    ping = {**headers(Forge.GITHUB), "X-GitHub-Event": "ping"}
    assert not is_for(read_delivery(Forge.GITHUB, ping, BODY, SECRET), address, None)


@given(
    st.binary(max_size=100)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["ref", "repository", "project", "clone_url"]) | st.text(), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_a_genuine_body_of_any_content_is_read_or_refused_as_input(body: bytes) -> None:
    try:
        delivery = read_delivery(Forge.GITEA, headers(Forge.GITEA, body), body, SECRET)
    except InvalidInput:
        return
    assert not is_for(delivery, "https://git.example.org/group/configs", "main")


@pytest.mark.parametrize(
    "address",
    [
        "https://git.example.org/Group/configs.git",
        "https://GIT.example.org/group/configs/",
        "ssh://git@git.example.org:2222/group/configs.git",
        "git@git.example.org:group/configs.git",
        "git.example.org:group/configs",
    ],
)
def test_addresses_of_one_repository_are_the_same(address: str) -> None:
    assert normalised_address(address) == "git.example.org/group/configs"
