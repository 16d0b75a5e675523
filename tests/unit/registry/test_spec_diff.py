"""What is told of a changed spec: the keys that differ, and never more than a person reads."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.registry.spec_diff import MOST_CHARACTERS, MOST_KEYS, changed_keys

VALUES = st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=2)
DOCUMENTS = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(VALUES, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_size=3,
)


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, ["b"]),
        ({"a": {"b": 1, "c": [1]}}, {"a": {"b": 1, "c": [2], "d": 4}}, ["a.c", "a.d"]),
        ({"a": {"b": {"c": 1}}}, {"a": 1}, ["a", "a.b.c"]),
        ({"a": 1}, {"a": {"b": 1}}, ["a", "a.b"]),
        ({}, {"a": {}}, ["a"]),
        ({"a": {}}, {"a": {"b": 1}}, ["a.b"]),
        ({"a": 1}, {"a": {}}, ["a"]),
    ],
)
def test_keys_are_named_from_the_top(
    before: dict[str, Any], after: dict[str, Any], keys: list[str]
) -> None:
    assert changed_keys(before, after) == keys


@given(DOCUMENTS, DOCUMENTS)
def test_a_difference_is_always_told_and_an_equality_never(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    keys = changed_keys(before, after)
    assert bool(keys) == (before != after)
    assert keys == list(dict.fromkeys(keys))
    assert sorted(changed_keys(after, before)) == sorted(keys)


def test_many_keys_below_a_long_name_take_neither_time_nor_memory() -> None:
    long = "k" * 120_000
    before, after = ({"model": {long: {f"a{n:x}": v for n in range(12_000)}}} for v in (1, 2))
    tracemalloc.start()
    began = time.perf_counter()
    keys = changed_keys(before, after)
    seconds = time.perf_counter() - began
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(keys) == MOST_KEYS
    assert {len(key) for key in keys} == {MOST_CHARACTERS}
    assert keys[0].startswith("model.kkk")
    assert peak_bytes < 5_000_000
    assert seconds < 1


def test_keys_that_begin_alike_are_told_once_each() -> None:
    after = {"x" * 300 + str(number): number for number in range(3)}
    assert changed_keys({}, after) == ["x" * 199 + "…"] * 3
