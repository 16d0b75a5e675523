"""The registries of the registry's own tests, and a worker that builds nothing."""

from tests.integration.api.building import bench, client, publish, settings, working
from tests.integration.registry.conftest import make_mirror, registry

__all__ = ["bench", "client", "make_mirror", "publish", "registry", "settings", "working"]
