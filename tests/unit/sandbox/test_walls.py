"""What follows from the walls that stand, or do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dissmodel_platform.errors import SettingsError
from dissmodel_platform.sandbox import walls as module
from dissmodel_platform.sandbox.bubblewrap import why_no_namespaces
from dissmodel_platform.sandbox.enter import missing_rights
from dissmodel_platform.sandbox.walls import (
    SYSTEM,
    Walls,
    check_exposure,
    check_policy,
    inspect_walls,
    is_loopback,
)

NONE = Walls(missing=("Model code is not walled in.",))
SOME = Walls(("landlock",), ("landlock",), missing=("Namespaces are refused.",))
ALL = Walls(("namespaces", "landlock"), ("namespaces", "landlock"))
AROUND_BUILDS = Walls(builds=("namespaces", "landlock"))

HERE = ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LocalHost"]
BEYOND = ["0.0.0.0", "::", "192.168.1.5", "10.0.0.1", "169.254.1.1", "platform.example", "",
          "localhost.example", "127.0.0.1.example", "2130706433", "127.1"]  # fmt: skip


@pytest.mark.parametrize("host", HERE)
def test_addresses_of_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", BEYOND)
def test_every_other_address_counts_as_beyond(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", BEYOND)
@pytest.mark.parametrize("policy", ["auto", "require"])
def test_listening_beyond_this_machine_without_a_wall_is_refused(host: str, policy: str) -> None:
    with pytest.raises(SettingsError, match="PLATFORM_SANDBOX=off"):
        check_exposure(host, policy, NONE)


def test_walls_around_builds_alone_are_not_enough() -> None:
    with pytest.raises(SettingsError):
        check_exposure("0.0.0.0", "auto", AROUND_BUILDS)


def test_one_wall_or_the_operators_word_is_enough_to_listen_beyond() -> None:
    check_exposure("0.0.0.0", "auto", SOME)
    check_exposure("0.0.0.0", "auto", ALL)
    check_exposure("0.0.0.0", "off", NONE)


@pytest.mark.parametrize("host", HERE)
def test_listening_on_this_machine_is_always_allowed(host: str) -> None:
    check_exposure(host, "auto", NONE)


def test_an_operator_who_insists_gets_all_walls_or_nothing() -> None:
    for walls in (NONE, SOME):
        with pytest.raises(SettingsError, match=r"PLATFORM_SANDBOX=require.*" + walls.missing[0]):
            check_policy("require", walls)
    check_policy("require", ALL)
    for policy in ("auto", "off"):
        check_policy(policy, NONE)


def test_what_this_machine_offers_is_said_in_sentences() -> None:
    walls = inspect_walls()
    assert set(walls.builds) <= {"namespaces", "landlock"}
    assert all(sentence.endswith(".") for sentence in walls.missing)


def test_an_operator_who_wants_none_gets_none_and_is_told() -> None:
    walls = inspect_walls("off")
    assert walls.builds == walls.runs == ()
    assert "PLATFORM_SANDBOX=off" in walls.missing[0]


def test_a_machine_without_bubblewrap_says_how_to_get_it(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install bubblewrap" in why_no_namespaces(())


def test_a_machine_that_refuses_namespaces_says_so(monkeypatch, tmp_path) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'setting up uid map: Permission denied' >&2; exit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    told = why_no_namespaces(())
    assert "uid map: Permission denied" in told
    assert "allow unprivileged user namespaces" in told


def test_an_old_landlock_says_what_it_leaves_open() -> None:
    assert any("a database's" in hole for hole in missing_rights(7))
    assert any("UDP" in hole for hole in missing_rights(7))
    assert not any("TCP" in hole or "signals" in hole for hole in missing_rights(7))
    assert any("TCP" in hole for hole in missing_rights(3))
    assert any("signals" in hole for hole in missing_rights(5))
    assert len(missing_rights(0)) == 1


@pytest.mark.parametrize("why_not", ["", "bwrap is not on the PATH"])
@pytest.mark.parametrize("abi", [0, 7])
def test_each_wall_that_does_not_stand_is_told(monkeypatch, why_not: str, abi: int) -> None:
    monkeypatch.setattr(module, "why_no_namespaces", lambda _: why_not)
    monkeypatch.setattr(module, "landlock_abi", lambda: abi)
    walls = inspect_walls.__wrapped__("auto")
    told = " ".join(walls.missing)
    assert ("namespaces" in walls.builds) is ("No namespaces around builds" not in told)
    assert ("landlock" in walls.builds) is ("No Landlock around builds" not in told)
    assert ("has a hole" in told) is bool(why_not and abi)


def test_private_keys_beside_certificates_are_not_shown() -> None:
    for keys in ("/etc/ssl/private/key.pem", "/etc/pki/tls/private/key.pem"):
        assert not any(Path(keys).is_relative_to(shown) for shown in SYSTEM)
