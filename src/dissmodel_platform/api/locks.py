"""Locks of models: what their runs are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Response
from packaging.utils import parse_wheel_filename

from dissmodel_platform.access.keys import Caller, Scope
from dissmodel_platform.api.context import Parts, requires
from dissmodel_platform.api.problems import described
from dissmodel_platform.api.schemas import (
    Commit,
    LockChange,
    LockedName,
    LockEntry,
    ModelLock,
    PackageVersion,
    RelockAnswer,
    Text,
)
from dissmodel_platform.environments.lock import BuiltWheel, LockedPackage
from dissmodel_platform.environments.relocks import Relock
from dissmodel_platform.services.build_requests import ask_for_relock, find_relock
from dissmodel_platform.services.locks import LockOfModel, lock_of_model

router = APIRouter(prefix="/models", tags=["models"])

TOML = "application/toml"

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            TOML: {
                "schema": {"type": "string"},
                "example": 'lock-version = "1.0"\ncreated-by = "uv"\n\n[[packages]]\n'
                'name = "coastal-flood"\nversion = "0.1.0"\n',
            }
        }
    },
    **described({404: "No such model or commit, or no lock of it yet."}),
}


@router.get(
    "/{name}/lock",
    summary="The packages that a model's runs are made of",
    response_model=ModelLock,
    responses=_ANSWERS,
)
async def get_lock(
    name: Text,
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.READ))],
    commit: Commit = None,
    format_: Annotated[
        Literal["json", "toml"] | None,
        Query(alias="format", description="`toml`: the lock file itself, as PEP 751 has it."),
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Any:
    """Return the lock of a model's version; every worker installs these files.

    With `format=toml`, or `Accept: application/toml`, the answer is the lock file.
    """
    found = await lock_of_model(parts.database, name, commit)
    if format_ == "toml" or (format_ is None and _prefers_toml(accept)):
        return Response(
            found.stored.lock.text,
            media_type=TOML,
            headers={"Content-Disposition": f'attachment; filename="{found.file_name}"'},
        )
    return _answer(found)


@router.post(
    "/{name}/relock",
    summary="Make a new lock of a model's version",
    tags=["administration"],
    responses={
        202: {"model": RelockAnswer, "description": "It takes longer; look again later."},
        **described(
            {
                404: "No such model or commit.",
                502: "There is no new lock, and the old one stays; `output_tail` says more.",
            }
        ),
    },
)
async def relock(
    name: Text,
    parts: Parts,
    caller: Annotated[Caller, Depends(requires(Scope.ADMIN))],
    response: Response,
    commit: Commit = None,
) -> RelockAnswer:
    """Have a worker resolve the model's package anew, and say which packages changed.

    The new lock counts for later runs of this version on every worker, once its environment works;
    experiments keep the lock that they used. After two minutes the answer is 202, and
    `GET /models/{name}/relocks/{relock_id}` says what came of it.
    """
    found = await ask_for_relock(
        parts.database, parts.queue, name, commit, requested_by=caller.name
    )
    if found.state == "waiting":
        response.status_code = 202
    return _relock_answer(found)


@router.get(
    "/{name}/relocks/{relock_id}",
    summary="What came of a request for a new lock",
    tags=["administration"],
    responses=described({404: "Nobody asked for it."}),
)
async def get_relock(
    name: Text,
    relock_id: UUID,
    parts: Parts,
    _: Annotated[Caller, Depends(requires(Scope.READ))],
) -> RelockAnswer:
    """Return its state, and what changed or why there is no new lock."""
    return _relock_answer(await find_relock(parts.database, name, relock_id))


def _prefers_toml(accept: str) -> bool:
    """Say whether a client names the lock file's type, and before JSON."""
    named = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    ours = [kind for kind in named if kind in (TOML, "application/json")]
    return ours[:1] == [TOML]


def _answer(found: LockOfModel) -> ModelLock:
    stored, lock = found.stored, found.stored.lock
    built = {wheel.name: wheel for wheel in lock.built}
    entries = [_entry(package, built.pop(package.name, None)) for package in lock.packages]
    return ModelLock(
        model_name=found.model.name,
        commit=found.model.revision,
        sha256=lock.sha256,
        created_at=stored.created_at,
        file_name=found.file_name,
        package=found.model.package,
        package_version=stored.package_version,
        package_commit=stored.package_commit,
        dissmodel_version=stored.dissmodel_version,
        packages=[*entries, *map(_own_entry, built.values())],
    )


def _entry(package: LockedPackage, wheel: BuiltWheel | None) -> LockEntry:
    return LockEntry(
        name=package.name,
        version=package.version or (_version(wheel) if wheel else ""),
        source=package.source or None,
        commit=package.commit or None,
        subdirectory=package.subdirectory or None,
        hashes=[f"sha256:{digest}" for digest in package.hashes],
        built=wheel is not None,
        wheel_sha256=wheel.sha256 if wheel else None,
    )


def _own_entry(wheel: BuiltWheel) -> LockEntry:
    """Describe a package that the platform itself ships."""
    return LockEntry(
        name=wheel.name,
        version=_version(wheel),
        source=None,
        commit=None,
        subdirectory=None,
        hashes=[],
        built=True,
        wheel_sha256=wheel.sha256,
    )


def _version(wheel: BuiltWheel) -> str:
    return str(parse_wheel_filename(wheel.file)[1])


def _relock_answer(found: Relock) -> RelockAnswer:
    changes = found.changes
    return RelockAnswer(
        message=found.message,
        relock_id=str(found.id),
        model_name=found.model_name,
        commit=found.revision,
        state=found.state,
        requested_at=found.requested_at,
        finished_at=found.finished_at,
        old_lock_sha256=found.old.sha256 if found.old else None,
        new_lock_sha256=found.new.sha256 if found.new else None,
        added=[LockedName(name=package.name, **_short(package)) for package in changes.added],
        removed=[LockedName(name=package.name, **_short(package)) for package in changes.removed],
        changed=[
            LockChange(
                name=change.after.name,
                from_=PackageVersion(**_short(change.before)),
                to=PackageVersion(**_short(change.after)),
            )
            for change in changes.changed
        ],
        error=found.error,
        output_tail=found.output_tail,
    )


def _short(package: LockedPackage) -> dict[str, Any]:
    return {"version": package.version, "commit": package.commit or None}
