"""Inputs inside parameters are found wherever they are, and replaced without other changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.execution.mentions import (
    Mention,
    find_mention,
    find_mentions,
    replace_mentions,
)

addresses = st.builds(
    lambda scheme, rest: scheme + rest,
    st.sampled_from(["s3://", "http://", "https://", "file:///", "/srv/"]),
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
    if text.lower().startswith(("s3://", "http://", "https://", "file://")):
        return True
    return text.startswith("/") and bool(text.strip("/"))


def shape(value: Any) -> Any:
    """Return a value with its addresses made equal."""
    if isinstance(value, str):
        return "an address" if is_address(value) or value.startswith("/local/") else value
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else value


@given(parameters)
def test_every_address_is_found_and_nothing_else(given_parameters: dict[str, Any]) -> None:
    found = [mention.address for _, mention in find_mentions(given_parameters)]
    assert found == [text for text in texts(given_parameters) if is_address(text)]


@given(parameters)
def test_each_address_is_replaced_by_its_own_file_and_nothing_else_changes(
    given_parameters: dict[str, Any],
) -> None:
    local = {
        mention.address: f"/local/{number}"
        for number, (_, mention) in enumerate(find_mentions(given_parameters))
    }
    replaced = replace_mentions(given_parameters, local.get)
    assert texts(replaced) == [local.get(text, text) for text in texts(given_parameters)]
    assert {mention.address for _, mention in find_mentions(replaced)} == set(local.values())
    assert shape(replaced) == shape(given_parameters)


@given(parameters)
def test_without_local_files_parameters_stay_as_they_are(given_parameters: dict[str, Any]) -> None:
    assert replace_mentions(given_parameters, lambda _: None) == given_parameters


def test_paths_say_where_an_address_was_found() -> None:
    given_parameters = {
        "dem": "s3://dissmodel-inputs/inputs/a/dem.tif",
        "layers": [{"roads": "https://example.org/roads.zip"}, "http://example.org/b"],
        "name": "not s3://an-address",
    }
    found = [(path, mention.address) for path, mention in find_mentions(given_parameters)]
    assert found == [
        ("parameters.dem", "s3://dissmodel-inputs/inputs/a/dem.tif"),
        ("parameters.layers.0.roads", "https://example.org/roads.zip"),
        ("parameters.layers.1", "http://example.org/b"),
    ]


@pytest.mark.parametrize(
    ("text", "before", "address", "after"),
    [
        ("HTTPS://Example.org/Grid.ZIP", "", "https://Example.org/Grid.ZIP", ""),
        ("S3://bucket/Grid.tif", "", "s3://bucket/Grid.tif", ""),
        ("File:///srv/grid.tif", "", "file:///srv/grid.tif", ""),
        ("/srv/a grid.tif", "", "/srv/a grid.tif", ""),
        ("/vsizip/s3://b/grid.zip/a/cells.shp", "/vsizip/", "s3://b/grid.zip", "/a/cells.shp"),
        ("/vsizip/s3://b/GRID.ZIP", "/vsizip/", "s3://b/GRID.ZIP", ""),
        ("/vsizip//srv/grid.zip/x.shp", "/vsizip/", "/srv/grid.zip", "/x.shp"),
        ("/vsitar/https://h/a.tar.gz/x.tif", "/vsitar/", "https://h/a.tar.gz", "/x.tif"),
        ("/vsigzip/s3://b/a.tif.gz", "/vsigzip/", "s3://b/a.tif.gz", ""),
        ("/vsizip/{https://h/d?id=3}/x.shp", "/vsizip/{", "https://h/d?id=3", "}/x.shp"),
        ("/vsicurl/https://h/grid.tif", "", "https://h/grid.tif", ""),
        ("/vsis3/bucket/deep/grid.tif", "", "s3://bucket/deep/grid.tif", ""),
        ("/vsis3_streaming/bucket/grid.tif", "", "s3://bucket/grid.tif", ""),
        ("/vsizip//vsicurl/https://h/g.zip/x", "/vsizip/", "https://h/g.zip", "/x"),
        ("/vsizip/vsis3/b/g.zip/x", "/vsizip/", "s3://b/g.zip", "/x"),
        ("/vsizip/{/vsizip/{s3://b/o.zip}/i.zip}/x",
         "/vsizip/{/vsizip/{", "s3://b/o.zip", "}/i.zip}/x"),
        ("/vsizip/{/vsizip/s3://b/o.zip/i.zip}/x",
         "/vsizip/{/vsizip/", "s3://b/o.zip", "/i.zip}/x"),
        ("/vsigs/bucket/grid.tif", "", "/vsigs/bucket/grid.tif", ""),
    ],
)  # fmt: skip
def test_the_address_is_found_inside_gdal_s_paths_and_in_any_case(
    text: str, before: str, address: str, after: str
) -> None:
    assert find_mention(text) == Mention(before, address, after)
    replaced = replace_mentions({"a": [text]}, {address: "/run/inputs/0/x"}.get)
    assert replaced == {"a": [f"{before}/run/inputs/0/x{after}"]}


@pytest.mark.parametrize(
    "text",
    ["", "/", "//", "a/b", "s3", "https:/x", "not s3://b/k", "/vsimem/x.tif", "/vsizip/here.zip/x",
     "/" + "x" * 5000],
)  # fmt: skip
def test_other_texts_name_no_input(text: str) -> None:
    assert find_mention(text) is None


@given(st.text(alphabet="/vsizptarcul3{}:.gx ", max_size=60))
def test_any_text_can_be_looked_at(text: str) -> None:
    mention = find_mention(text)
    assert mention is None or replace_mentions(text, lambda _: "/local").count("/local") == 1
