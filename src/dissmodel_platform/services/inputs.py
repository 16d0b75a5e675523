"""Find the inputs of a request, and check what can be checked before anything is queued."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dissmodel_platform.database.pool import Database
from dissmodel_platform.errors import InvalidInput, ObjectNotFound
from dissmodel_platform.execution.input_rules import Allowance, InputRules
from dissmodel_platform.execution.mentions import find_mention, find_mentions
from dissmodel_platform.execution.references import (
    SOURCE_FIELD,
    InputReference,
    SideFile,
    wrong_content,
)
from dissmodel_platform.execution.shapefiles import (
    check_complete,
    side_addresses,
    side_addresses_among,
)
from dissmodel_platform.storage.beneath import names_beside, open_beneath
from dissmodel_platform.storage.index import IndexedObject, find_object, find_objects
from dissmodel_platform.storage.remote import check_http_url
from dissmodel_platform.storage.uris import LOGICAL_BUCKETS, LogicalUri, is_web, local_path
from dissmodel_platform.types import Sha256

CHECKSUM_FIELD = "input_sha256"


@dataclass
class FoundInputs:
    """The inputs of a request.

    Attributes
    ----------
    references : list of InputReference
        What a run has to stage.
    faults : dict of str to str
        What is wrong, by field.
    """

    references: list[InputReference] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def source_sha256(self) -> Sha256 | None:
        """Content of the input dataset, where it is known."""
        return next((r.sha256 for r in self.references if r.field == SOURCE_FIELD), None)


async def find_inputs(
    database: Database,
    rules: InputRules,
    input_dataset: str,
    input_sha256: str | None,
    parameters: Mapping[str, Any],
) -> FoundInputs:
    """Find and check every input that a request names.

    Parameters
    ----------
    database : Database
        Knows what was uploaded.
    rules : InputRules
        What may be read.
    input_dataset : str
        Address of the input; empty: none.
    input_sha256 : str or None
        Content that the request says the input dataset has.
    parameters : mapping
        Those of the run, in which any text may name an input.
    """
    found, allowance = FoundInputs(), Allowance(rules.max_bytes)
    mentions = list(find_mentions(parameters))
    if input_dataset:
        mention = find_mention(input_dataset)
        if mention is None:
            found.faults[SOURCE_FIELD] = (
                f"{input_dataset!r} is no address of an input; upload the file with POST "
                f"/data/upload and use the uri it answers."
            )
        else:
            mentions.insert(0, (SOURCE_FIELD, mention))
    elif input_sha256 is not None:
        found.faults[CHECKSUM_FIELD] = "There is no input_dataset that it is the checksum of."
    for name, mention in mentions:
        reference = InputReference(name, mention.address)
        if name == SOURCE_FIELD and input_sha256 is not None:
            reference = InputReference(
                name, mention.address, expected_sha256=Sha256(input_sha256.lower())
            )
        try:
            found.references.append(await _find(database, rules, allowance, reference))
        except _WrongContent as error:
            found.faults[CHECKSUM_FIELD] = str(error)
        except (InvalidInput, ObjectNotFound) as error:
            found.faults[name] = str(error)
    return found


class _WrongContent(InvalidInput):
    """The checksum names other content than the address."""


async def _find(
    database: Database, rules: InputRules, allowance: Allowance, reference: InputReference
) -> InputReference:
    if is_web(reference.uri):
        await check_http_url(reference.uri, allow_private=rules.allow_private)
        return reference
    if local_path(reference.uri) is not None:
        await asyncio.to_thread(_check_local, rules, allowance, reference.uri)
        return reference
    uri = rules.parse_object(reference.uri)
    if uri.bucket not in LOGICAL_BUCKETS:  # the worker's to reach
        return reference
    return await _find_upload(database, allowance, reference, uri)


async def _find_upload(
    database: Database, allowance: Allowance, reference: InputReference, uri: LogicalUri
) -> InputReference:
    """Pin the content of an uploaded file, or of an output, and of its side files."""
    main = await find_object(database, uri)
    expected = reference.expected_sha256
    if expected is not None and expected != main.sha256:
        raise _WrongContent(wrong_content(reference.uri, main.sha256, expected))
    sides: dict[str, IndexedObject] = {}
    spelt = {suffix: _spellings(side) for suffix, side in side_addresses(reference.uri).items()}
    if spelt:
        there = await find_objects(database, [each for both in spelt.values() for each in both])
        for suffix, spellings in spelt.items():
            for spelling in spellings:
                if spelling in there:
                    sides[suffix] = there[spelling]
    check_complete(reference.uri, sides)
    for entry in (main, *sides.values()):
        allowance.spend(entry.size_bytes)
    return InputReference(
        reference.field,
        reference.uri,
        main.sha256,
        side_files=tuple(SideFile(suffix, side.uri, side.sha256) for suffix, side in sides.items()),
    )


def _spellings(side: str) -> tuple[str, str]:
    """Return the address of a side file with its suffix in the other case, and as it is."""
    stem, dot, suffix = side.rpartition(".")
    return stem + dot + suffix.swapcase(), side


def _check_local(rules: InputRules, allowance: Allowance, uri: str) -> None:
    """Refuse a path of the server that the worker would refuse."""
    path = local_path(uri)
    assert path is not None
    with open_beneath(path, rules.directories) as file:
        allowance.spend(os.fstat(file.fileno()).st_size)
    if side_addresses(uri):
        check_complete(uri, side_addresses_among(uri, names_beside(path, rules.directories)))
