"""The registries of the registry's own tests."""

from tests.integration.registry.conftest import make_mirror, registry

__all__ = ["make_mirror", "registry"]
