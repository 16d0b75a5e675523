"""The ``Range`` header: what is asked for, cut to the file, refused or ignored."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dissmodel_platform.api.downloads import RangeNotSatisfiable, read_range

sizes = st.integers(0, 2**63)
positions = st.integers(0, 10**18 - 1)


@settings(deadline=None)
@given(sizes, st.none() | st.text() | st.from_regex(r"bytes=\d*-\d*"))
@example(10, "bytes=" + "9" * 5000 + "-")
@example(10, "bytes=-" + "9" * 5000)
@example(10, "bytes=١-٢")
def test_whatever_is_asked_the_answer_lies_within_the_file(size: int, header: str | None) -> None:
    try:
        part = read_range(header, size)
    except RangeNotSatisfiable:
        return
    if part is not None:
        start, end = part
        assert 0 <= start < end <= size


@settings(deadline=None)
@given(positions, positions, sizes)
def test_a_range_with_both_ends_is_cut_to_the_file(first: int, last: int, size: int) -> None:
    header = f"bytes={first}-{last}"
    if last < first:
        assert read_range(header, size) is None
    elif first >= size:
        with pytest.raises(RangeNotSatisfiable):
            read_range(header, size)
    else:
        assert read_range(header, size) == (first, min(last + 1, size))


@settings(deadline=None)
@given(positions, sizes)
def test_an_open_range_runs_to_the_end(first: int, size: int) -> None:
    if first >= size:
        with pytest.raises(RangeNotSatisfiable):
            read_range(f"bytes={first}-", size)
    else:
        assert read_range(f"bytes={first}-", size) == (first, size)


@settings(deadline=None)
@given(positions, sizes)
def test_a_suffix_range_is_the_last_bytes_or_the_whole(length: int, size: int) -> None:
    if length == 0 or size == 0:
        with pytest.raises(RangeNotSatisfiable):
            read_range(f"bytes=-{length}", size)
    else:
        assert read_range(f"bytes=-{length}", size) == (max(0, size - length), size)


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=1", "bytes=a-b", "bytes=0-1,3-4", "bytes=--1",
     "bytes= 0-1", "items=0-1", "bytes=5-2", "0-1"],
)  # fmt: skip
def test_what_is_no_single_range_of_bytes_is_ignored(header: str | None) -> None:
    assert read_range(header, 100) is None


def test_the_unit_is_read_in_any_case_as_rfc_9110_says() -> None:
    assert read_range("Bytes=0-1", 100) == (0, 2)
    assert read_range("  bytes=0-1 ", 100) == (0, 2)
