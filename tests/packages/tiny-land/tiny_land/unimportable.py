"""A module that needs what nobody declared."""

import a_library_that_nobody_declared  # noqa: F401
