"""The lock of a model's version: which packages, files and commits its runs are made of."""

from __future__ import annotations

from dataclasses import dataclass

from dissmodel_platform.database.pool import Database
from dissmodel_platform.environments.packages import request_for
from dissmodel_platform.environments.records import StoredLock, find_lock
from dissmodel_platform.errors import EnvironmentBuildError, LockNotFound, ModelNotFound
from dissmodel_platform.registry.index import (
    Publication,
    PublishedModel,
    find_publication,
    get_model,
    latest_publication,
)
from dissmodel_platform.registry.spec import parse_spec


@dataclass(frozen=True)
class LockOfModel:
    """A model's version, and the lock that counts for it."""

    model: PublishedModel
    stored: StoredLock

    @property
    def file_name(self) -> str:
        """Name of the lock's file, as PEP 751 has it: it allows no dot in the middle."""
        return f"pylock.{self.model.name.replace('.', '_')}.toml"


async def published_model(
    database: Database, name: str, commit: str | None
) -> tuple[Publication, PublishedModel]:
    """Return a model at a commit, and that commit's publication.

    Parameters
    ----------
    commit : str or None
        A published commit of the registry; the newest by default.

    Raises
    ------
    ModelNotFound, RevisionNotFound
        The registry has no such model or commit.
    """
    if commit:
        publication = await find_publication(database, commit)
    else:
        latest = await latest_publication(database)
        if latest is None:
            raise ModelNotFound(name)
        publication = latest
    return publication, await get_model(database, publication, name)


async def lock_of_model(database: Database, name: str, commit: str | None) -> LockOfModel:
    """Return the lock of a model's version.

    Raises
    ------
    ModelNotFound, RevisionNotFound
        The registry has no such model or commit.
    LockNotFound
        None has been made yet; says how that stands.
    """
    _, model = await published_model(database, name, commit)
    spec = parse_spec(f"models/{model.name}.toml", model.source_text).spec
    stored = None
    if spec is not None:
        try:
            # where local sources are not allowed there is no lock of one either
            request = request_for(spec.package, spec.dissmodel, allow_local=True)
        except EnvironmentBuildError as error:
            raise LockNotFound(f"Model {model.name!r} has no lock. {error}") from error
        stored = await find_lock(database, model.name, request.package, request.requirements)
    if stored is None:
        raise LockNotFound(_reason(model))
    return LockOfModel(model, stored)


def _reason(model: PublishedModel) -> str:
    if model.environment["state"] == "failed":
        return f"Model {model.name!r} has no lock, since it cannot be built. " + str(
            model.environment["error"]
        )
    return (
        f"Model {model.name!r} has no lock yet; a worker makes it when it builds the model's "
        f"environment. GET /models/{model.name} says how that stands."
    )
