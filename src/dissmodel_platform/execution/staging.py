"""Give a run its inputs as local files, whatever their addresses were."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from dissmodel_platform.errors import InvalidInput, ObjectNotFound
from dissmodel_platform.execution.input_cache import Holding, InputCache
from dissmodel_platform.execution.input_rules import Allowance, InputRules
from dissmodel_platform.execution.references import (
    InputReference,
    StagedInput,
    file_name,
    wrong_content,
)
from dissmodel_platform.execution.shapefiles import (
    check_complete,
    local_side_name,
    side_addresses,
    side_addresses_among,
)
from dissmodel_platform.storage.beneath import names_beside, open_beneath
from dissmodel_platform.storage.buckets import fetch_object
from dissmodel_platform.storage.files import copy_opened
from dissmodel_platform.storage.objects import ObjectStore
from dissmodel_platform.storage.partial import StoredObject
from dissmodel_platform.storage.remote import NothingThere, fetch_http
from dissmodel_platform.storage.tasks import see_through
from dissmodel_platform.storage.uris import is_web, local_path
from dissmodel_platform.types import Sha256

_AT_ONCE = 4
"""Files that are fetched at the same time for one run."""

_Result = TypeVar("_Result")


class Stager:
    """Copies inputs into a content-addressed cache and links them into runs.

    Parameters
    ----------
    store : ObjectStore
        Where uploaded inputs are, and where inputs from elsewhere are kept for reproduction.
    cache : InputCache
        This machine's copies.
    rules : InputRules
        What may be read, and how much.
    when_grown : callable, optional
        Called after a run that has brought new copies into the cache.
    """

    def __init__(
        self,
        store: ObjectStore,
        cache: InputCache,
        rules: InputRules,
        when_grown: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._cache = cache
        self._rules = rules
        self._when_grown = when_grown

    @asynccontextmanager
    async def staging(
        self, references: Sequence[InputReference], directory: Path
    ) -> AsyncIterator[list[StagedInput]]:
        """Have the inputs of a run in its directory for the block.

        Parameters
        ----------
        references : sequence of InputReference
            What the run reads; an address that is named twice is staged once.
        directory : Path
            The run's own; each input keeps its name, in ``inputs/<number>``.

        Yields
        ------
        list of StagedInput
            In the order of the references, each followed by its side files.

        Raises
        ------
        InvalidInput
            A file is not there (any more), is refused, too large, or is not the one that the
            request's checksum names.
        StorageError
            The object store or a bucket broke off.
        """
        run = _Staging(self._store, self._cache, self._rules)
        distinct = {replace(reference, field=""): reference for reference in references}
        try:
            staged = await _together(
                run.stage(reference, directory / "inputs" / str(number))
                for number, reference in enumerate(distinct.values())
            )
            by_reference = dict(zip(distinct, staged, strict=True))
            yield [
                _renamed(entry, reference.field)
                for reference in references
                for entry in by_reference[replace(reference, field="")]
            ]
        finally:
            await see_through(run.release())
            if run.has_grown_cache and self._when_grown is not None:
                self._when_grown()


class _Staging:
    """What is staged for one run, a few files at a time."""

    def __init__(self, store: ObjectStore, cache: InputCache, rules: InputRules) -> None:
        self._store = store
        self._cache = cache
        self._rules = rules
        self._allowance = Allowance(rules.max_bytes)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._links: list[tuple[Sha256, Path]] = []
        self.has_grown_cache = False

    async def stage(self, reference: InputReference, directory: Path) -> list[StagedInput]:
        """Stage an input, and its side files under its name."""
        place = directory / file_name(reference.uri)
        sides = await self._side_references(reference)
        main, *found = await _together(
            [
                self._file(reference, place),
                *(
                    self._side_file(side, place.with_name(local_side_name(place.name, suffix)))
                    for suffix, side in sides.items()
                ),
            ]
        )
        assert main is not None, "only a side file may be missing"
        read = {suffix: side for suffix, side in zip(sides, found, strict=True) if side is not None}
        if reference.sha256 is None:  # else it has what it had
            check_complete(reference.uri, read)
        return [main, *(_as_side(side, main, suffix) for suffix, side in read.items())]

    async def release(self) -> None:
        """Remove the run's links."""
        for sha256, path in self._links:
            await self._cache.release(sha256, path)

    async def _side_references(self, reference: InputReference) -> dict[str, InputReference]:
        """Return what may be the side files of an input, by suffix."""
        if reference.sha256 is not None:
            return {
                side.suffix: InputReference("", side.uri, side.sha256)
                for side in reference.side_files
            }
        addresses = side_addresses(reference.uri)
        path = local_path(reference.uri)
        if addresses and path is not None:
            names = await asyncio.to_thread(names_beside, path, self._rules.directories)
            addresses = side_addresses_among(reference.uri, names)
        return {suffix: InputReference("", address) for suffix, address in addresses.items()}

    async def _side_file(self, side: InputReference, place: Path) -> StagedInput | None:
        try:
            return await self._file(side, place)
        except NothingThere:
            return None

    async def _file(self, reference: InputReference, place: Path) -> StagedInput:
        async with self._slots:
            if reference.sha256 is None:
                sha256, size_bytes = await self._link_new(reference, place)
            else:
                sha256 = reference.sha256
                size_bytes = await self._link_known(reference, sha256, place)
            self._links.append((sha256, place))
        return StagedInput(reference.field, reference.uri, place, sha256, size_bytes)

    async def _link_known(self, reference: InputReference, sha256: Sha256, place: Path) -> int:
        async with self._cache.holding(sha256) as held:
            if await see_through(asyncio.to_thread(held.is_intact)):
                self._allowance.spend(held.size_bytes)
                return await see_through(asyncio.to_thread(held.link, place))
            try:
                self._allowance.spend(await self._store.size(sha256))
                with self._cache.arriving() as arriving:
                    await self._store.fetch(sha256, arriving)
                    await self._adopt(held, arriving)
            except ObjectNotFound as error:
                raise InvalidInput(
                    f"The input {reference.uri} ({reference.field}) is not in the store any more; "
                    f"upload it again."
                ) from error
            return await see_through(asyncio.to_thread(held.link, place))

    async def _link_new(self, reference: InputReference, place: Path) -> tuple[Sha256, int]:
        """Read what is not known yet, keep it for reproduction, and link it into the run."""
        with self._cache.arriving() as arriving:
            found = await self._fetch(reference.uri, arriving)
            expected = reference.expected_sha256
            if expected is not None and found.sha256 != expected:
                raise InvalidInput(wrong_content(reference.uri, found.sha256, expected))
            if not await self._is_kept(found):
                await self._store.put_file(arriving)
            async with self._cache.holding(found.sha256) as held:
                if not await see_through(asyncio.to_thread(held.is_intact)):
                    await self._adopt(held, arriving)
                await see_through(asyncio.to_thread(held.link, place))
        return found.sha256, found.size_bytes

    async def _adopt(self, held: Holding, arrived: Path) -> None:
        self.has_grown_cache = True
        await see_through(asyncio.to_thread(held.adopt, arrived))

    async def _fetch(self, uri: str, arriving: Path) -> StoredObject:
        rules, allowance = self._rules, self._allowance
        if is_web(uri):
            return await fetch_http(
                uri,
                arriving,
                max_bytes=rules.max_bytes,
                allow_private=rules.allow_private,
                count=allowance.spend,
            )
        path = local_path(uri)
        if path is None:
            return await fetch_object(rules.parse_object(uri), arriving, count=allowance.spend)

        def opened() -> io.BufferedReader:
            file = open_beneath(path, rules.directories)
            try:
                allowance.see_room(os.fstat(file.fileno()).st_size)
            except InvalidInput:
                file.close()
                raise
            return file

        return await copy_opened(opened, arriving, check=allowance.spend)

    async def _is_kept(self, found: StoredObject) -> bool:
        try:
            return await self._store.size(found.sha256) == found.size_bytes
        except ObjectNotFound:
            return False


def _as_side(side: StagedInput, main: StagedInput, suffix: str) -> StagedInput:
    return replace(side, field=f"{main.field}{suffix}", side_file_of=main.field)


def _renamed(entry: StagedInput, field: str) -> StagedInput:
    """Return what was staged for one field as what was staged for another one."""
    if entry.side_file_of is None:
        return replace(entry, field=field)
    suffix = entry.field.removeprefix(entry.side_file_of)
    return replace(entry, field=f"{field}{suffix}", side_file_of=field)


async def _together(works: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Do several things at a time; where one fails, the others are ended and its error raised."""
    failure: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        failure = errors.exceptions[0]
    if failure is not None:
        raise failure
    return [task.result() for task in tasks]
