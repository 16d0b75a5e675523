"""Tests that were packed by mistake."""

raise RuntimeError("tests must not be imported")
