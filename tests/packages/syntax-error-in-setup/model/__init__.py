"""A package that cannot be built."""
