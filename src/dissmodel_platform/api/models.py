"""Models of the registry."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from dissmodel_platform.access.keys import Caller, Scope
from dissmodel_platform.api.context import Context, Parts, requires
from dissmodel_platform.api.problems import described
from dissmodel_platform.api.schemas import (
    BuildAnswer,
    Commit,
    EnvironmentDetail,
    EnvironmentState,
    Model,
    ModelDetail,
    ModelHistory,
    ModelPage,
    ModelVersion,
    Text,
)
from dissmodel_platform.errors import InvalidInput
from dissmodel_platform.registry import index
from dissmodel_platform.services.build_requests import ask_for_build
from dissmodel_platform.services.locks import published_model

router = APIRouter(tags=["models"])


_CURSOR = re.compile(r"([0-9]{1,18}):([A-Za-z0-9_.-]{1,100})")


async def _publication(parts: Context, commit: str | None) -> index.Publication | None:
    if commit:
        return await index.find_publication(parts.database, commit)
    return await index.latest_publication(parts.database)


async def _place(
    parts: Context, commit: str | None, cursor: str
) -> tuple[index.Publication | None, str]:
    """Return the publication to list, and the model after which a page begins.

    A cursor names both, so that all pages of one walk are of one commit.

    Raises
    ------
    InvalidInput
        The cursor is not one of this listing.
    """
    if not cursor:
        return await _publication(parts, commit), ""
    found = _CURSOR.fullmatch(cursor)
    publication = await index.get_publication(parts.database, int(found[1])) if found else None
    if found is None or publication is None:
        raise InvalidInput(
            "The cursor is not one that this listing returned; start without it.",
            {"cursor": "unknown cursor"},
        )
    if commit and (await index.find_publication(parts.database, commit)).revision != (
        publication.revision
    ):
        raise InvalidInput(
            "The cursor is of another commit; give the same one for all pages.",
            {"cursor": "of another commit"},
        )
    return publication, found[2]


@router.get("/models", summary="List the models that can be run")
async def list_models(
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.READ))],
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[Text, Query(description="`next` of the page before.")] = "",
    commit: Commit = None,
) -> ModelPage:
    """Return one page, by name; a model whose package does not work says so in ``environment``.

    The pages that follow are of the same commit, also when another one is published meanwhile.
    """
    publication, after = await _place(parts, commit, cursor)
    if publication is None:
        return ModelPage(models=[], commit=None, next=None)
    found = await index.list_models(parts.database, publication, limit=limit + 1, after=after)
    page = found[:limit]
    return ModelPage(
        models=[
            Model(
                name=model.name,
                class_=model.class_name,
                description=model.description,
                package=model.package,
                stale=model.stale,
                environment=EnvironmentState(**model.environment),
            )
            for model in page
        ],
        commit=publication.revision,
        next=f"{publication.seq}:{page[-1].name}" if len(found) > limit else None,
    )


@router.get("/models/{name}", summary="One model with its whole spec")
async def get_model(
    name: Text,
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.READ))],
    commit: Commit = None,
) -> ModelDetail:
    """Return the spec as it stands in the registry, and the state of the model's environment."""
    model = (await published_model(parts.database, name, commit))[1]
    return ModelDetail(
        model_name=model.name,
        spec=model.document,
        class_=model.class_name,
        description=model.description,
        package=model.package,
        stale=model.stale,
        environment=EnvironmentDetail(**model.environment),
        commit=model.revision,
    )


@router.post(
    "/models/{name}/build",
    summary="Build a model's environment now",
    status_code=202,
    tags=["administration"],
    responses=described({404: "No such model or commit."}),
)
async def build_model(
    name: Text,
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.ADMIN))],
    commit: Commit = None,
) -> BuildAnswer:
    """Have a worker build it, also where that failed before; `GET /models/{name}` says the rest."""
    model = await ask_for_build(parts.database, parts.queue, name, commit)
    return BuildAnswer(
        message=f"A worker will build the environment of {model.name!r}.",
        model_name=model.name,
        commit=model.revision,
        environment=EnvironmentState(**model.environment),
    )


@router.get("/models/{name}/history", summary="The versions of a model")
async def get_model_history(
    name: Text, parts: Parts, _: Annotated[Caller, Depends(requires(Scope.READ))]
) -> ModelHistory:
    """Return the commits that brought and replaced each version; any of them can be run again."""
    rows = await index.model_history(parts.database, name)
    return ModelHistory(model_name=name, versions=[ModelVersion(**row) for row in rows])
