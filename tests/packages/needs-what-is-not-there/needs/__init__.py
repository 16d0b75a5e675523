"""A package with a dependency that no index has."""
