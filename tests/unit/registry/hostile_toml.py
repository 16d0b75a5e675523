"""Documents that would need seconds, gigabytes or a deep stack; run by ``test_toml_bounds.py``.

Ends with an error when one takes 1 s of processor time, or all together 150 MB.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from dissmodel_platform.registry.bounded_toml import MAX_BYTES
from dissmodel_platform.registry.spec import parse_spec

LIMIT_SECONDS = 1.0
LIMIT_BYTES = 150_000_000


def numbered(form: str, most: int) -> str:
    """Lines of a form, ``#`` counted up, as many as fit."""
    lines: list[str] = []
    size = 0
    for number in itertools.count():
        line = form.replace("#", str(number))
        size += len(line)
        if size > MAX_BYTES - 100 or len(lines) >= most:
            return "".join(lines)
        lines.append(line)
    raise AssertionError


def filled(text: str, around: str = "%s") -> str:
    """Repeat a text as often as fits."""
    return around % (text * ((MAX_BYTES - len(around)) // len(text)))


def documents() -> Iterator[str]:
    deep = ".a" * 31
    below = "[" + "b." * 31 + "b]\n"
    for most in (620, 5_000, 9_000, 19_000, MAX_BYTES):
        yield numbered(f"a#{deep}=1\n", most)
        yield numbered(f"[a#{deep}]\n", most)
        yield below + numbered(f"a#{deep}=1\n", most)
        yield below + numbered("a#=1\n", most)
        yield below + numbered("a#=[]\n", most)
        yield "a={" + numbered(f"a#{deep}=[],", most) + "b=1}"
        yield "a={" + numbered("a#=1,", most) + "b=1}"
        for form in (
            "[a#]\n",
            "[[a#]]\n",
            "a#=[]\n",
            "a#={}\n",
            "a#.b.c.d=[]\n",
            "[a#.b.c.d]\n",
            "[[a#.b]]\n[a#.b.c]\n",
            "\"a#\".'b#'=1\n",
            "a#='''\n'''\n",
            "a#=1979-05-27\n",
            "clas#=1\n",
        ):
            yield numbered(form, most)
            yield "[model]\n" + numbered(form, most)
        yield "[model.parameter_schema]\n" + numbered("a#.b=1\n", most)
        yield "[model.bands]\n" + numbered("a#=0.5\n", most)
    for text in ("\\n", "\\\n", '"" ', "1,", "1.5,", "1979-05-27,", "[],", "{},", "#\n"):
        yield filled(text, 'a="%s"')
        yield filled(text, 'a="""%s"""')
        yield filled(text, "a=[%s]")
    for text in (
        *"\n\r\t \"'\\#[]{}.=,é",
        '"""\\"',
        '"\\"',
        "'''a",
        "[[",
        "a.\n",
        "a=\n",
        "a\n",
        "\r\n",
        "[a\n",
        "a=[\n",
        '"""\n',
        '"a" ',
        'a="\\"\n',
    ):
        yield filled(text)
        yield "[model]\n" + filled(text)[:-10]
    yield "a" + ".a" * 20_000 + "=1"
    yield "[" + "a." * 100_000 + "a]"
    yield "a=" + "[" * 100_000
    yield "a=" + "{b=" * 60_000
    yield "a=" + "9" * 250_000
    yield "a=0x" + "f" * 250_000
    yield "a=1." + "9" * 250_000
    yield "a=1" + "9" * 200_000 + "e-200000"
    yield "[" + "k" * 130_000 + "]\n[" + "k" * 130_000 + "]"


def main() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    slowest = 0.0
    for text in documents():
        began = time.process_time()
        parse_spec("models/a.toml", text.encode())
        seconds = time.process_time() - began
        slowest = max(slowest, seconds)
        if seconds >= LIMIT_SECONDS:
            raise SystemExit(f"{seconds:.2f} s for a document that starts with {text[:60]!r}")
    print(f"slowest: {slowest:.2f} s")


if __name__ == "__main__":
    main()
