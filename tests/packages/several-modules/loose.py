"""A module beside the package."""
