"""A misspelt name gets a hint, at a cost that does not grow with the names there are."""

from __future__ import annotations

import time

import pytest

from dissmodel_platform.registry.nearest import nearest_names

LONG = "land_use_change_model_for_the_region_of_amazonas_{:06}_abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.mark.parametrize("typo", ["flod_vector", "lood_vector", "flood_vectro", "flood-vector"])
def test_a_misspelt_name_finds_what_was_meant(typo: str) -> None:
    known = [f"model_{number:05}" for number in range(20_000)]
    assert nearest_names(typo, [*known, "flood_vector", "mangrove"])[:1] == ["flood_vector"]


def test_a_name_like_no_other_finds_nothing() -> None:
    assert nearest_names("zzz", ["flood_vector"]) == []
    assert nearest_names("", ["flood_vector"]) == []
    assert nearest_names("flood_vector", []) == []


@pytest.mark.parametrize("name", [LONG.format(5)[:-1] + "x", "x" * 10_000_000, LONG * 1000])
def test_many_long_names_that_are_alike_take_little_time(name: str) -> None:
    known = [LONG.format(number) for number in range(10_000)]
    begin = time.process_time()
    nearest_names(name, known)
    assert time.process_time() - begin < 0.3, "comparing all of them takes more than twice that"
