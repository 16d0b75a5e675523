"""Take a request for a run: resolve, check everything that can be checked, store, wake a worker."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from procrastinate import App

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import InvalidInput, ModelNotFound
from dissmodel_platform.execution.input_rules import InputRules
from dissmodel_platform.execution.mentions import find_mention
from dissmodel_platform.execution.references import SOURCE_FIELD
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
from dissmodel_platform.services.inputs import find_inputs
from dissmodel_platform.services.package_policy import package_policy
from dissmodel_platform.settings import Settings
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
    input_sha256: str | None = None
    catalog_name: str = ""
    catalog_commit: str = ""


class Submitter:
    """Accepts runs; after a call returns, the experiment is stored and a worker will be woken."""

    def __init__(self, database: Database, queue: App, settings: Settings) -> None:
        self._database = database
        self._queue = queue
        self._policy = package_policy(settings)
        self._input_rules = InputRules.of(settings)

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
        inputs = await find_inputs(
            self._database,
            self._input_rules,
            request.input_dataset,
            request.input_sha256,
            merged,
        )
        source = Source(
            type=_source_type(request.input_dataset),
            uri=request.input_dataset,
            collection=request.catalog_name,
            version=request.catalog_commit,
            checksum=inputs.source_sha256 or "",
        )
        faults |= inputs.faults
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
            inputs=[reference.as_json() for reference in inputs.references],
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


def _source_type(input_dataset: str) -> str:
    mention = find_mention(input_dataset)
    scheme = mention.address.partition("://")[0] if mention is not None else ""
    return {"s3": "s3", "http": "http", "https": "http"}.get(scheme, "local")


def _prefixed(prefix: str, faults: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{name}": text for name, text in faults.items()}
