"""Addresses inside parameters are found wherever they are, and replaced without other changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.execution.staging import file_name, find_addresses, replace_addresses

addresses = st.builds(
    lambda scheme, rest: scheme + rest,
    st.sampled_from(["s3://", "http://", "https://"]),
    st.text(max_size=12),
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | addresses
)
parameters = st.dictionaries(
    st.text(max_size=6),
    st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
        ),
        max_leaves=20,
    ),
    max_size=5,
)


def texts(value: Any) -> list[str]:
    """Return every text that is a value, in the order of the document."""
    if isinstance(value, str):
        return [value]
    inner = list(value.values()) if isinstance(value, dict) else value
    return [text for each in inner for text in texts(each)] if isinstance(inner, list) else []


def is_address(text: str) -> bool:
    return text.startswith(("s3://", "http://", "https://"))


def shape(value: Any) -> Any:
    """Return a value with its addresses made equal."""
    if isinstance(value, str):
        return "an address" if is_address(value) or value.startswith("/local/") else value
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else value


@given(parameters)
def test_every_address_is_found_and_nothing_else(given_parameters: dict[str, Any]) -> None:
    found = [address for _, address in find_addresses(given_parameters)]
    assert found == [text for text in texts(given_parameters) if is_address(text)]


@given(parameters)
def test_each_address_is_replaced_by_its_own_file_and_nothing_else_changes(
    given_parameters: dict[str, Any],
) -> None:
    local = {
        address: f"/local/{number}"
        for number, (_, address) in enumerate(find_addresses(given_parameters))
    }
    replaced = replace_addresses(given_parameters, local.get)
    assert texts(replaced) == [local.get(text, text) for text in texts(given_parameters)]
    assert not list(find_addresses(replaced))
    assert shape(replaced) == shape(given_parameters)


@given(parameters)
def test_without_local_files_parameters_stay_as_they_are(given_parameters: dict[str, Any]) -> None:
    assert replace_addresses(given_parameters, lambda _: None) == given_parameters


def test_paths_say_where_an_address_was_found() -> None:
    given_parameters = {
        "dem": "s3://dissmodel-inputs/inputs/a/dem.tif",
        "layers": [{"roads": "https://example.org/roads.zip"}, "http://example.org/b"],
        "name": "not s3://an-address",
    }
    assert list(find_addresses(given_parameters)) == [
        ("parameters.dem", "s3://dissmodel-inputs/inputs/a/dem.tif"),
        ("parameters.layers.0.roads", "https://example.org/roads.zip"),
        ("parameters.layers.1", "http://example.org/b"),
    ]


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://dissmodel-inputs/inputs/a/grid.zip", "grid.zip"),
        ("s3://dissmodel-inputs/inputs/a/what?.zip", "what?.zip"),
        ("https://example.org/data/grid.zip?token=1#part", "grid.zip"),
        ("https://example.org/data/", "data"),
        ("https://example.org", "input"),
        ("https://example.org/a/..", "input"),
        ("s3://dissmodel-inputs/inputs/a/.", "input"),
        ("/srv/data/grid.gpkg", "grid.gpkg"),
        ("s3://b/" + "x" * 300 + ".gpkg", "x" * 195 + ".gpkg"),
    ],
)
def test_the_local_name_is_the_last_part_of_the_address(uri: str, name: str) -> None:
    assert file_name(uri) == name


@given(st.sampled_from(["", "s3://bucket/", "https://example.org/"]), st.text(max_size=400))
def test_a_local_name_never_leaves_its_directory(start: str, rest: str) -> None:
    try:
        name = file_name(start + rest)
    except ValueError:  # no address at all, as "https://[": these are refused at submission
        return
    assert name not in ("", ".", "..")
    assert "/" not in name
    assert len(name.encode("utf-8", "replace")) <= 200
