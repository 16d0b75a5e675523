"""Take a request for a run: resolve, check everything that can be checked, store, wake a worker."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from procrastinate import App

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import InvalidInput, ModelNotFound, ObjectNotFound
from dissmodel_platform.execution.staging import SOURCE_FIELD, InputReference, find_addresses
from dissmodel_platform.experiments.once import Once, find_submitted
from dissmodel_platform.experiments.queue import enqueue_run
from dissmodel_platform.experiments.record import INLINE_COMMIT, Experiment, Source, Submission
from dissmodel_platform.experiments.transitions import insert, set_queue_job
from dissmodel_platform.registry.catalog import CATALOG_PREFIX
from dissmodel_platform.registry.index import (
    Publication,
    find_publication,
    get_catalog,
    get_model,
    latest_publication,
)
from dissmodel_platform.registry.nearest import nearest_names
from dissmodel_platform.registry.parameters import check_names, check_parameters
from dissmodel_platform.registry.spec import ModelSpec, parse_spec
from dissmodel_platform.services.package_policy import package_policy
from dissmodel_platform.settings import Settings
from dissmodel_platform.storage.index import find_object
from dissmodel_platform.storage.remote import check_http_url
from dissmodel_platform.storage.uris import LogicalUri
from dissmodel_platform.types import ExperimentId, Priority

INLINE_MODEL = "inline"


@dataclass(frozen=True)
class RunRequest:
    """What a client asks for, beside the model itself."""

    input_dataset: str
    input_format: str = "auto"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    column_map: Mapping[str, Any] = field(default_factory=dict)
    band_map: Mapping[str, Any] = field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    catalog_name: str = ""
    catalog_commit: str = ""


class Submitter:
    """Accepts runs; after a call returns, the experiment is stored and a worker will be woken."""

    def __init__(self, database: Database, queue: App, settings: Settings) -> None:
        self._database = database
        self._queue = queue
        self._settings = settings
        self._policy = package_policy(settings)

    async def submit(
        self,
        model_name: str,
        request: RunRequest,
        *,
        submitted_by: str,
        commit: str | None = None,
        once: Once | None = None,
    ) -> Experiment:
        """Submit a run of a published model.

        Parameters
        ----------
        commit : str, optional
            A commit of the registry that was published; the newest by default.
        once : Once, optional
            By what it is known again when it is submitted again: that returns the experiment that
            is there already.

        Raises
        ------
        ModelNotFound, RevisionNotFound
            The registry has no such model or commit.
        InvalidInput
            Names each faulty field, or what is wrong with the model's file.
        SubmissionConflict
            ``once`` stands for another submission.
        """
        if once is not None:
            before = await find_submitted(self._database, submitted_by, once)
            if before is not None:
                return before
        if commit is not None:
            publication = await find_publication(self._database, commit)
        else:
            latest = await latest_publication(self._database)
            if latest is None:
                raise ModelNotFound(model_name)
            publication = latest
        request = await self._resolve_catalog(request, publication)
        model = await get_model(self._database, publication, model_name)
        parsed = parse_spec(f"models/{model.name}.toml", model.source_text)
        if parsed.spec is None:  # published by a version that took what this one refuses
            message = f"The file of {model.name!r} cannot be used: {parsed.errors[0].message}"
            raise InvalidInput(message, {"model_name": message})
        self._check_package(parsed.spec, "model_name")
        return await self._accept(parsed.spec, publication.revision, request, submitted_by, once)

    async def submit_inline(
        self,
        spec_text: str,
        request: RunRequest,
        *,
        submitted_by: str,
        once: Once | None = None,
    ) -> Experiment:
        """Submit a run of a spec that comes with the request.

        Raises
        ------
        InvalidInput
            The spec cannot be read, or names each faulty field.
        SubmissionConflict
            ``once`` stands for another submission.
        """
        if once is not None:
            before = await find_submitted(self._database, submitted_by, once)
            if before is not None:
                return before
        parsed = parse_spec(f"models/{INLINE_MODEL}.toml", spec_text)
        if parsed.spec is not None and parsed.spec.declared_name:
            named = parse_spec(f"models/{parsed.spec.declared_name}.toml", spec_text)
            parsed = parsed if named.spec is None else named
        if parsed.spec is None:
            faults = [
                f"line {p.line}: {p.message}" if p.line else p.message for p in parsed.problems
            ]
            message = "The spec cannot be read: " + " ".join(faults)
            raise InvalidInput(message, {"model_spec_toml": message})
        self._check_package(parsed.spec, "model_spec_toml")
        latest = await latest_publication(self._database)
        request = await self._resolve_catalog(request, latest)
        return await self._accept(parsed.spec, INLINE_COMMIT, request, submitted_by, once)

    def _check_package(self, spec: ModelSpec, field: str) -> None:
        """Refuse a package that the operator's list does not allow."""
        fault = self._policy.fault_of(spec.package)
        if fault is not None:
            raise InvalidInput(fault, {field: fault})

    async def _resolve_catalog(
        self, request: RunRequest, publication: Publication | None
    ) -> RunRequest:
        """Replace ``catalog:NAME`` by the address that the catalogue gives at a publication."""
        if not request.input_dataset.startswith(CATALOG_PREFIX):
            return request
        name = request.input_dataset.removeprefix(CATALOG_PREFIX)
        sources = {} if publication is None else await get_catalog(self._database, publication)
        if publication is None or name not in sources:
            nearest = await asyncio.to_thread(nearest_names, name, sources)
            hint = f"did you mean {' or '.join(nearest)}?" if nearest else "see GET /catalog."
            message = f"The registry's catalogue names no data set {name!r}; {hint}"
            raise InvalidInput(message, {SOURCE_FIELD: message})
        return replace(
            request,
            input_dataset=sources[name]["uri"],
            catalog_name=request.input_dataset,
            catalog_commit=publication.revision,
        )

    async def _accept(
        self,
        spec: ModelSpec,
        model_commit: str,
        request: RunRequest,
        submitted_by: str,
        once: Once | None,
    ) -> Experiment:
        parameters = await asyncio.to_thread(check_parameters, spec, request.parameters)
        faults = {f"parameters.{name}": text for name, text in parameters.errors.items()}
        faults |= _prefixed("column_map", check_names(spec.columns, request.column_map))
        faults |= _prefixed("band_map", check_names(spec.bands, request.band_map))
        merged = spec.merged_parameters(request.parameters)
        source, inputs, input_faults = await self._inputs(request.input_dataset, merged)
        if request.catalog_name:
            source = source.model_copy(
                update={"collection": request.catalog_name, "version": request.catalog_commit}
            )
        faults |= input_faults
        if faults:
            raise InvalidInput.of_fields(faults)
        submission = Submission(
            model_name=spec.name,
            model_commit=model_commit,
            spec_source=spec.source_text,
            resolved_spec=dict(spec.document),
            source=source,
            input_format=request.input_format,
            parameters=merged,
            column_map={**spec.columns, **request.column_map},
            band_map={**spec.bands, **request.band_map},
            inputs=inputs,
            random_seed=secrets.randbits(32),
            warnings=list(parameters.warnings),
        )
        return await self.store(
            submission, submitted_by=submitted_by, priority=request.priority, once=once
        )

    async def store(
        self,
        submission: Submission,
        *,
        submitted_by: str,
        priority: Priority,
        reproduces: ExperimentId | None = None,
        once: Once | None = None,
    ) -> Experiment:
        """Insert the experiment and the job that wakes a worker, in one transaction.

        Of several calls with the same ``once``, also at the same time, one inserts; all return
        that experiment.

        Raises
        ------
        SubmissionConflict
            ``once`` stands for another submission.
        """
        chosen = once.experiment_id if once is not None else None
        while True:
            async with self._database.transaction() as connection:
                experiment = await insert(
                    connection,
                    chosen or ExperimentId(uuid4().hex),
                    submission,
                    submitted_by=submitted_by,
                    priority=priority,
                    reproduces=reproduces,
                    once=once,
                )
                if experiment is not None:
                    job = await enqueue_run(self._queue, connection, experiment.id, priority)
                    await set_queue_job(connection, experiment.id, job)
                    return experiment
            assert once is not None, "a random id was there before"
            before = await find_submitted(self._database, submitted_by, once)
            if before is not None:  # else it was deleted meanwhile
                return before

    async def _inputs(
        self, input_dataset: str, parameters: Mapping[str, Any]
    ) -> tuple[Source, list[dict[str, Any]], dict[str, str]]:
        """Find every input; returns the source, the references to stage, and faults by field."""
        faults: dict[str, str] = {}
        inputs: list[dict[str, Any]] = []
        checksum = ""
        addresses = list(find_addresses(parameters))
        if input_dataset:
            addresses.insert(0, (SOURCE_FIELD, input_dataset))
        for name, uri in addresses:
            try:
                reference = await self._find_input(name, uri)
            except (InvalidInput, ObjectNotFound) as error:
                faults[name] = str(error)
                continue
            inputs.append({"field": name, "uri": reference.uri, "sha256": reference.sha256})
            if name == SOURCE_FIELD:
                checksum = reference.sha256 or ""
        source = Source(type=_source_type(input_dataset), uri=input_dataset, checksum=checksum)
        return source, inputs, faults

    async def _find_input(self, name: str, uri: str) -> InputReference:
        if uri.startswith("s3://"):
            found = await find_object(self._database, LogicalUri.parse(uri))
            return InputReference(name, uri, found.sha256)
        if uri.startswith(("http://", "https://")):
            await check_http_url(uri, allow_private=False)
            return InputReference(name, uri)
        await asyncio.to_thread(self._check_local, uri)
        return InputReference(name, uri)

    def _check_local(self, uri: str) -> None:
        """Refuse a path of the server unless it lies under a directory that the operator listed."""
        scheme, separator, rest = uri.partition("://")
        path = Path(rest if separator else uri)
        if (separator and scheme != "file") or not path.is_absolute():
            raise InvalidInput(
                f"{uri!r} is no address of an input; upload the file with POST /data/upload and "
                f"use the uri it answers."
            )
        allowed = [directory.resolve() for directory in self._settings.input_directories]
        try:
            is_allowed = any(path.resolve().is_relative_to(directory) for directory in allowed)
            is_there = is_allowed and path.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # no path at all, or a circle of links
            raise InvalidInput(f"The path {uri!r} cannot be read: {error}.") from error
        if not is_allowed:
            raise InvalidInput(
                f"The server does not read its own path {uri!r}; upload the file with POST "
                f"/data/upload, or ask the operator to list its directory in "
                f"PLATFORM_INPUT_DIRECTORIES."
            )
        if not is_there:
            raise InvalidInput(f"There is no file {uri!r} on the server; correct the path.")


def _source_type(uri: str) -> str:
    scheme, separator, _ = uri.partition("://")
    return {"s3": "s3", "http": "http", "https": "http"}.get(scheme if separator else "", "local")


def _prefixed(prefix: str, faults: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{name}": text for name, text in faults.items()}
