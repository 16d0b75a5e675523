"""A package for a Python that is not there yet."""
