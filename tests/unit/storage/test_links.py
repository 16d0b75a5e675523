"""A link opens one object until a given time, and nothing else ever."""

from __future__ import annotations

import base64
import string
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dissmodel_platform.errors import NotAuthorised, SettingsError
from dissmodel_platform.storage.links import read_link, sign_link
from dissmodel_platform.storage.uris import LogicalUri, input_uri, output_uri
from dissmodel_platform.types import ExperimentId, Sha256

SECRET = b"s" * 32
SHA256 = Sha256("ab" * 32)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
URI = output_uri(ExperimentId("0" * 32), "São Luís/flooded cells.gpkg")
TOKEN = sign_link(SECRET, URI, SHA256, LATER)


def test_a_link_gives_back_what_was_signed() -> None:
    link = read_link(SECRET, TOKEN, NOW)
    assert (link.uri, link.sha256, link.expires_at) == (URI, SHA256, LATER)
    assert link.expires_at.tzinfo is UTC


def test_a_token_fits_into_an_address_without_quoting() -> None:
    assert set(TOKEN) <= set(string.ascii_letters + string.digits + "-_")
    assert len(TOKEN) < 1.4 * len(str(URI).encode()) + 110


def test_a_link_of_a_listed_bucket_can_be_read() -> None:
    uri = LogicalUri("national-archive", "2024/dem.tif")
    assert read_link(SECRET, sign_link(SECRET, uri, SHA256, LATER), NOW).uri == uri


def test_a_time_zone_changes_nothing() -> None:
    brasilia = timezone(timedelta(hours=-3))
    token = sign_link(SECRET, URI, SHA256, LATER.astimezone(brasilia))
    assert token == TOKEN
    assert read_link(SECRET, token, NOW.astimezone(brasilia)).expires_at == LATER


def test_a_link_is_good_until_its_last_second_and_says_when_it_has_expired() -> None:
    assert read_link(SECRET, TOKEN, LATER - timedelta(seconds=1)).uri == URI
    with pytest.raises(NotAuthorised, match="expired"):
        read_link(SECRET, TOKEN, LATER)


def test_a_forged_token_is_not_told_that_it_has_expired() -> None:
    with pytest.raises(NotAuthorised, match="altered"):
        read_link(b"another secret, long enough .....", TOKEN, LATER + timedelta(days=1))


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(SettingsError):
        sign_link(b"short", URI, SHA256, LATER)


@settings(deadline=None)
@given(position=st.integers(0, len(TOKEN) - 1), letter=st.sampled_from(string.ascii_letters))
def test_a_token_with_one_letter_changed_is_refused(position: int, letter: str) -> None:
    forged = TOKEN[:position] + letter + TOKEN[position + 1 :]
    if forged == TOKEN:
        return
    with pytest.raises(NotAuthorised, match="altered"):
        read_link(SECRET, forged, NOW)


@settings(deadline=None)
@given(bit=st.integers(0, 8 * len(base64.urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4))) - 1))
def test_a_token_with_one_bit_changed_is_refused(bit: int) -> None:
    signed = bytearray(base64.urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4)))
    signed[bit // 8] ^= 1 << bit % 8
    forged = base64.urlsafe_b64encode(signed).rstrip(b"=").decode()
    with pytest.raises(NotAuthorised, match="altered"):
        read_link(SECRET, forged, NOW)


@settings(deadline=None)
@given(token=st.text(max_size=300))
def test_any_other_text_is_refused_in_the_same_way(token: str) -> None:
    with pytest.raises(NotAuthorised, match="altered"):
        read_link(SECRET, token, NOW)


@pytest.mark.parametrize("twist", [TOKEN + "=", TOKEN + "\n", " " + TOKEN, TOKEN + "A", TOKEN[:-1]])
def test_a_token_has_one_spelling(twist: str) -> None:
    with pytest.raises(NotAuthorised):
        read_link(SECRET, twist, NOW)


def test_a_very_long_token_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(NotAuthorised):
        read_link(SECRET, "A" * 1_000_000, NOW)


@settings(deadline=None)
@given(seconds=st.integers(1, 10**9))
def test_every_expiry_reads_back(seconds: int) -> None:
    expires_at = NOW + timedelta(seconds=seconds)
    token = sign_link(SECRET, input_uri("a", "b.tif"), SHA256, expires_at)
    assert read_link(SECRET, token, NOW).expires_at == expires_at
