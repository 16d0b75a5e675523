"""What comes through a run's pipes: the model can write to them as well."""

from __future__ import annotations

import asyncio
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.execution import forkserver
from dissmodel_platform.execution.events import PhaseStarted, Progress
from dissmodel_platform.execution.forkserver import _LONGEST_LINE_BYTES, _event, _lines, _text
from dissmodel_platform.execution.line_gate import LineGate

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("phase", ["validate", "load", "run", "save"])
def test_phases_are_read(phase: str) -> None:
    assert _event(json.dumps({"event": "phase", "phase": phase})) == PhaseStarted(phase)


def test_progress_is_read() -> None:
    line = json.dumps({"event": "progress", "time": 3, "start": 0, "end": 10.5})
    assert _event(line) == Progress(3.0, 0.0, 10.5)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "print",
        "{",
        "[]",
        "7",
        "[" * 10**5,
        "{}",
        '{"event": "phase"}',
        '{"event": "phase", "phase": "lunch"}',
        '{"event": "phase", "phase": ["run"]}',
        '{"event": "progress", "time": 1, "start": 0}',
        '{"event": "progress", "time": null, "start": 0, "end": 1}',
        '{"event": "progress", "time": NaN, "start": 0, "end": 1}',
        '{"event": "progress", "time": 0, "start": 0, "end": Infinity}',
        '{"event": "progress", "time": 0, "start": 1, "end": 1}',
        '{"event": "progress", "time": 0, "start": 2, "end": 1}',
        '{"event": "progress", "time": 1' + "0" * 400 + ', "start": 0, "end": 1}',
    ],
)
def test_what_is_no_event_is_dropped(line: str) -> None:
    assert _event(line) is None


@given(st.text() | st.dictionaries(st.text(), st.integers() | st.floats()).map(json.dumps))
def test_no_line_breaks_the_reading_of_events(line: str) -> None:
    event = _event(line)
    if isinstance(event, Progress):
        assert all(map(math.isfinite, (event.time, event.start, event.end)))


async def lines(*chunks: bytes, gate: LineGate | None = None) -> list[str]:
    reader = asyncio.StreamReader()
    for chunk in chunks:
        reader.feed_data(chunk)
    reader.feed_eof()
    return [line async for line in _lines(reader, gate or LineGate(1e9))]


async def test_lines_are_whole_however_they_arrive() -> None:
    text = "um\ndois: maré\n\nquatro\r\nno end"
    expected = ["um", "dois: maré", "", "quatro", "no end"]
    assert await lines(text.encode()) == expected
    assert await lines(*(bytes([byte]) for byte in text.encode())) == expected


async def test_a_line_without_an_end_is_cut_and_nothing_of_it_is_lost() -> None:
    cut = await lines(b"x" * (3 * _LONGEST_LINE_BYTES + 5) + b"\nnext")
    assert "".join(cut[:-1]) == "x" * (3 * _LONGEST_LINE_BYTES + 5)
    assert max(map(len, cut)) <= 2 * _LONGEST_LINE_BYTES
    assert cut[-1] == "next"


async def test_bytes_that_are_no_text_are_replaced() -> None:
    assert await lines(b"a\xffb\0c\n") == ["a\N{REPLACEMENT CHARACTER}b\N{SYMBOL FOR NULL}c"]


@given(st.lists(st.binary(max_size=20).map(lambda data: data + b"\n"), max_size=30), st.data())
def test_every_line_is_read_or_counted_however_it_arrives(
    printed: list[bytes], data: st.DataObject
) -> None:
    text = b"".join(printed) + data.draw(st.binary(max_size=5))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    gate = LineGate(data.draw(st.sampled_from([0.1, 0.5, 100.0])), clock=lambda: 0.0)

    async def read() -> list[str]:
        reader = asyncio.StreamReader()
        kept = []

        async def collect() -> None:
            kept.extend([line async for line in _lines(reader, gate)])

        collecting = asyncio.create_task(collect())
        for chunk in chunks:
            reader.feed_data(chunk)
            await asyncio.sleep(0)
        reader.feed_eof()
        await collecting
        return kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forkserver, "_BREATH_SECONDS", 0)
        kept = asyncio.run(read())
    *ended, rest = text.split(b"\n")
    whole = [*ended, rest] if rest else ended
    assert len(kept) + gate.take_left_out() == len(whole)
    assert kept == [_text(line) for line in whole[: len(kept)]]


async def test_what_is_left_out_is_read_slowly_and_not_taken_apart() -> None:
    """A model that prints all the time takes no time of the worker to speak of."""
    gate = LineGate(1.0, clock=lambda: 0.0)
    begin = asyncio.get_running_loop().time()
    kept = await lines(b"y\n" * 10**6, gate=gate)
    pieces = 2 * 10**6 / _LONGEST_LINE_BYTES - 1
    assert asyncio.get_running_loop().time() - begin >= pieces * forkserver._BREATH_SECONDS
    assert kept == ["y"] * 10
    assert gate.take_left_out() == 10**6 - 10
