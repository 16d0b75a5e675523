"""Whatever a model prints can be stored, and what can be stored is left as it is."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.storable import printable_text, storable_json, storable_text

any_text = st.text(alphabet=st.characters())  # lone surrogates and NUL included
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner) | st.dictionaries(any_text, inner),
)


@given(any_text)
def test_a_text_can_be_encoded_and_holds_no_nul(text: str) -> None:
    stored = storable_text(text)
    assert b"\0" not in stored.encode("utf-8")
    assert len(stored) == len(text)
    assert storable_text(stored) == stored


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_text_that_can_be_stored_is_left_alone(text: str) -> None:
    assert storable_text(text) == text


@given(any_text)
def test_a_text_that_is_shown_holds_nothing_that_steers_a_terminal(text: str) -> None:
    shown = printable_text(text)
    assert all(character.isprintable() or character in "\n\t" for character in shown)
    assert printable_text(shown) == shown


def test_what_steers_a_terminal_goes_as_a_whole_and_the_words_stay() -> None:
    assert printable_text("fatal: \x1b[31mred\x1b[0m\tand \x1b]0;a title\x07words\n") == (
        "fatal: red\tand words\n"
    )
    assert printable_text("no end \x1b]0;a title\nnext line") == "no end \nnext line"
    assert printable_text("a\0b\u202ec") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"


@given(json_values)
def test_json_can_be_written_strictly(value: Any) -> None:
    text = json.dumps(storable_json(value), allow_nan=False)
    assert "\\u0000" not in text
    text.encode("utf-8")


def test_numbers_that_are_not_finite_become_nothing_and_all_others_stay() -> None:
    assert storable_json({"a": [math.nan, math.inf, 1.5, 7, True, None]}) == {
        "a": [None, None, 1.5, 7, True, None]
    }
