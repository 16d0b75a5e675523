"""A module whose import raises."""

raise RuntimeError("this module needs a licence file")
