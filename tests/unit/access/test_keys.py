"""API keys: one file, readable by its owner alone, and a ring that tells friend from stranger."""

from __future__ import annotations

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dissmodel_platform.access.keys import Caller, Keyring, Scope, read_or_make_key
from dissmodel_platform.errors import NotAuthenticated, NotAuthorised, SettingsError

MAKE = """
import sys
from pathlib import Path
from dissmodel_platform.access.keys import read_or_make_key
sys.stdin.readline()
print(read_or_make_key(Path(sys.argv[1])))
"""


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "api-key"
    key = read_or_make_key(path)
    assert len(key) >= 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert read_or_make_key(path) == key
    assert list(path.parent.iterdir()) == [path]


def test_two_homes_have_two_keys(tmp_path: Path) -> None:
    assert read_or_make_key(tmp_path / "a" / "key") != read_or_make_key(tmp_path / "b" / "key")


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    starting = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    keys = {process.communicate("go\n", timeout=60)[0].strip() for process in starting}
    assert keys == {path.read_text().strip()}
    assert list(tmp_path.iterdir()) == [path]


def test_threads_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: read_or_make_key(path), range(64)))
    assert len(keys) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_the_operator_wrote_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    path.write_text("  chosen \n")
    assert read_or_make_key(path) == "chosen"


def test_an_empty_key_file_is_told_and_not_taken_for_a_key(tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    path.write_text("\n")
    with pytest.raises(SettingsError, match=r"api-key is empty"):
        read_or_make_key(path)


def test_every_key_of_the_ring_opens_everything_under_a_name_of_its_own() -> None:
    ring = Keyring(["first", "second", "kéy"])
    callers = [ring.identify(secret) for secret in ("first", "second", "kéy")]
    assert len({caller.name for caller in callers}) == 3
    for caller in callers:
        assert caller.scopes == frozenset(Scope)
        for scope in Scope:
            caller.require(scope)
    assert ring.identify("first") == callers[0]


def test_the_name_of_a_caller_does_not_give_the_key_away() -> None:
    secret = "s3cret-of-the-group"
    caller = Keyring([secret]).identify(secret)
    assert secret not in repr(caller)
    assert secret not in repr(vars(Keyring([secret])))


@pytest.mark.parametrize("given", [None, "", "wrong", "firs", "first ", "FIRST", "first,second"])
def test_whatever_is_no_key_is_refused(given: str | None) -> None:
    with pytest.raises(NotAuthenticated, match="X-API-Key"):
        Keyring(["first", "second"]).identify(given)


def test_an_empty_ring_lets_nobody_in() -> None:
    for given in (None, "", "x"):
        with pytest.raises(NotAuthenticated):
            Keyring([]).identify(given)


def test_a_key_without_a_scope_is_refused_by_the_name_of_the_scope() -> None:
    reader = Caller("reader", frozenset({Scope.READ}))
    reader.require(Scope.READ)
    with pytest.raises(NotAuthorised, match="run:inline"):
        reader.require(Scope.RUN_INLINE)
