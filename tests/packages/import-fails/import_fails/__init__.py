"""A package that imports what it does not declare."""

import a_library_that_nobody_declared  # noqa: F401
