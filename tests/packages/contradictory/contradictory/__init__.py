"""A package that wants two versions of one library."""
