"""The scan before the parser: whatever it lets through, tomllib reads quickly."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tomllib
import tomllib._parser as parser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dissmodel_platform.registry import toml_bounds
from dissmodel_platform.registry.toml_bounds import find_excess, key_offsets

FRAGMENTS = [
    *"\"'\\#\n[]{}.,= aZ1_-é\t",
    '"""',
    "'''",
    '\\"',
    '""',
    "''",
    "[[",
    "]]",
    "a=1",
    "b.c",
    "a.a.a.a",
    "a=[",
    "a={",
    '="',
    "='",
    "=1\n",
    '="""',
    '"""\n',
    "'''\n",
    '"\n',
]


class Witness:
    """What tomllib really meets: parts of one key, parts of all keys, open brackets."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.longest_key = self.keys = self.deepest = 0
        self._parts = self._depth = 0
        self._patch(patch, "parse_key_part", self._count_part)
        self._patch(patch, "parse_key", self._count_key)
        self._patch(patch, "parse_array", self._count_bracket)
        self._patch(patch, "parse_inline_table", self._count_bracket)

    def _patch(self, patch, name, around) -> None:
        original = getattr(parser, name)
        patch.setattr(parser, name, lambda *args: around(original, *args))

    def _count_part(self, original, *args):
        self._parts += 1
        self.keys += 1
        self.longest_key = max(self.longest_key, self._parts)
        return original(*args)

    def _count_key(self, original, *args):
        self._parts = 0
        return original(*args)

    def _count_bracket(self, original, *args):
        self._depth += 1
        self.deepest = max(self.deepest, self._depth)
        try:
            return original(*args)
        finally:
            self._depth -= 1


@settings(max_examples=2000, deadline=None)
@example('a=["""x"""", {a.a.a.a=1}]')
@example("a=['''x'''', {a.a.a.a=1}]")
@example('a=["\\"", {a.a.a.a=1}, "\\\\", {a.a.a.a=1}]')
@example('a=["""\\""""", {a.a.a.a=1}]')
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join))
def test_tomllib_never_meets_more_than_the_scan_counted(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toml_bounds, "MAX_DEPTH", 2)
        patch.setattr(toml_bounds, "MAX_KEYS", 6)
        if find_excess(text) is not None:
            return
        witness = Witness(patch)
        with contextlib.suppress(ValueError):
            tomllib.loads(text)
        assert witness.longest_key <= 2 + 1  # the part at which it gives up is never used
        assert witness.deepest <= 2
        assert witness.keys <= 6 + 2


@pytest.mark.parametrize(
    "text",
    [
        'a = "b.c.d.[[[[{{{{ # = ="',
        "a = '''x.y.z [[[[ \n {{{{ '''",
        'a = """\n[[[[ \\" "" x.y.z\n"""""',
        "# a.b.c.d.e [[[[\n",
        "a = [1.5, 2.5, 3.5, 1979-05-27T07:32:00.5Z]",
    ],
)
def test_marks_in_strings_comments_and_numbers_do_not_count(text: str, monkeypatch) -> None:
    monkeypatch.setattr(toml_bounds, "MAX_DEPTH", 2)
    monkeypatch.setattr(toml_bounds, "MAX_KEYS", 3)
    assert find_excess(text) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a" + ".a" * 40 + " = 1", "too-deep"),
        ("[" + "a." * 40 + "a]", "too-deep"),
        ("x = {" + "a." * 40 + "a = 1}", "too-deep"),
        ("x = " + "[" * 40 + "]" * 40, "too-deep"),
        ("x = " + "{a = " * 40, "too-deep"),
        ("".join(f"a{i} = 1\n" for i in range(20_001)), "too-many-keys"),
        ("[[a]]\n" * 20_001, "too-many-keys"),
        ("x = [" + "[], " * 20_001 + "]", "too-many-keys"),
    ],
)
def test_excess_is_found_wherever_it_stands(text: str, code: str) -> None:
    excess = find_excess(text)
    assert excess is not None
    assert excess.code == code


def test_statements_are_found_on_their_lines() -> None:
    text = (
        '# x\n[model]\n  name = "a"\n[model."sub table"]\nx.y = [\n 1,\n]\n[[model.list]]\nz = 1\n'
    )
    offsets = key_offsets(text)
    assert offsets == {
        ("model",): text.index("[model]"),
        ("model", "name"): text.index("name"),
        ("model", "sub table"): text.index('[model."sub'),
        ("model", "sub table", "x", "y"): text.index("x.y"),
        ("model", "list"): text.index("[[model"),
        ("model", "list", "z"): text.index("z = 1"),
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its own address space")
def test_hostile_documents_take_under_1_s_and_150_mb() -> None:
    script = Path(__file__).with_name("hostile_toml.py")
    result = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
