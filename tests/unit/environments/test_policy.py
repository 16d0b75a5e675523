"""The operator's list of package sources, against those who would like to get round it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissmodel_platform.environments.lock import Lock
from dissmodel_platform.environments.policy import EVERYTHING, PackagePolicy
from dissmodel_platform.errors import PackageNotAllowed, SettingsError

GIT = "git+https://git.example.org/lab/"
LISTED = (
    "index", GIT, "git+ssh://git@git.example.org/lab/", "https://files.example.org/wheels/",
    "git+https://forge.example.org:8443/tools/tide",
)  # fmt: skip
POLICY = PackagePolicy.read(LISTED)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "package",
    [
        None,
        "",
        "flood==1.0",
        "flood[plots]>=1,<2",
        "git+https://git.example.org/lab/flood",
        "git+https://git.example.org/lab/flood.git@v1#subdirectory=a/../b",
        "flood @ git+https://git.example.org/lab/group/flood@feature/x",
        "git+https://GIT.Example.ORG/lab/flood@v1",
        "git+https://git.example.org./lab/flood@v1",
        "git+https://git.example.org:443/lab/flood@v1",
        "git+https://git.example.org/%6Cab/flood@v1",
        "git+https://git.example.org/lab/flood@v1@v2",
        "flood @ git+ssh://git@git.example.org/lab/flood@v1",
        "git+ssh://git@git.example.org:22/lab/flood@v1",
        "https://files.example.org/wheels/flood-1.0-py3-none-any.whl#sha256=00",
        "https://files.example.org/wheels/a/flood-1.0%2Bcpu-py3-none-any.whl?download=1",
        "git+https://forge.example.org:8443/tools/tide@v1",
        "git+https://forge.example.org:8443/tools/tide.git@v1",
        "/srv/flood",
        "git+file:///srv/flood",
    ],
)
def test_what_the_list_names_is_allowed_however_it_is_spelt(package: str | None) -> None:
    assert POLICY.fault_of(package) is None
    POLICY.check(package)


@pytest.mark.parametrize(
    "package",
    [
        "git+https://git.example.org/lab-2/flood@v1",
        "git+https://git.example.org/labs/flood@v1",
        "git+https://git.example.org/Lab/flood@v1",
        "git+https://git.example.org/other/lab/flood@v1",
        "git+https://git.example.org/",
        "git+https://git.example.org",
        "git+http://git.example.org/lab/flood@v1",
        "https://git.example.org/lab/flood.whl",
        "git+https://git.example.org:8443/lab/flood@v1",
        "git+https://git.example.org:99999/lab/flood@v1",
        "git+https://forge.example.org/tools/tide@v1",
        "git+https://forge.example.org:8443/tools/tide2@v1",
        "git+https://forge.example.org:8443/tools/tide.git/x@v1",
        # another host behind a familiar one
        "git+https://git.example.org@evil.example/lab/flood@v1",
        "git+https://git.example.org:x@evil.example/lab/flood@v1",
        "git+https://git.example.org%40evil.example/lab/flood@v1",
        "git+https://git.example.org.evil.example/lab/flood@v1",
        "git+https://evil.example\\@git.example.org/lab/flood@v1",
        "git+https://evil.example#@git.example.org/lab/flood@v1",
        "git+https://evil.example?@git.example.org/lab/flood@v1",
        "git+https:///git.example.org/lab/flood@v1",
        "git+https:////evil.example/lab/flood@v1",
        "git+https://git%2Eexample.org/lab/flood@v1",
        "git+https://g\u0456t.example.org/lab/flood@v1",
        # a user, with or without a password
        "git+https://ana@git.example.org/lab/flood@v1",
        "git+https://ana:secret@git.example.org/lab/flood@v1",
        "git+ssh://root@git.example.org/lab/flood@v1",
        "git+ssh://git.example.org/lab/flood@v1",
        "git+ssh://-oProxyCommand=x@git.example.org/lab/flood@v1",
        # out of the directory
        "git+https://git.example.org/lab/../other/flood@v1",
        "git+https://git.example.org/lab/./flood@v1",
        "git+https://git.example.org/lab/%2e%2e/other/flood@v1",
        "git+https://git.example.org/lab/%2E./other/flood@v1",
        "git+https://git.example.org/lab/%252e%252e/other/flood@v1",
        "git+https://git.example.org/lab/..%2Fother/flood@v1",
        "git+https://git.example.org/lab/..%5Cother/flood@v1",
        "git+https://git.example.org/lab/..\\other\\flood@v1",
        "git+https://git.example.org/lab/flood@v1/../../other/flood",
        "git+https://git.example.org/lab/flood@%2e%2e/%2e%2e/other/flood",
        "git+https://git.example.org/lab%2Fflood@v1",
        "git+https://git.example.org//lab/flood@v1",
        "git+https://git.example.org/lab//flood@v1",
        "git+https://git.example.org/lab/%00/flood@v1",
        "git+https://git.example.org/lab/%ff/flood@v1",
        "git+https://git.example.org/lab/flood?to=https://evil.example/@v1",
        "https://files.example.org/wheels/../flood-1.0-py3-none-any.whl",
        "https://files.example.org/wheels2/flood-1.0-py3-none-any.whl",
        # what nobody can read
        "--index-url=https://evil.example/ flood",
        "flood\n-r /etc/passwd",
        "ftp://git.example.org/lab/flood",
        "git@git.example.org:lab/flood",
        "git+https://git.example.org/lab/flood@v1 git+https://evil.example/x",
    ],
)
def test_what_the_list_does_not_name_is_refused_however_it_is_spelt(package: str) -> None:
    fault = POLICY.fault_of(package)
    assert fault is not None
    assert "PLATFORM_PACKAGE_SOURCES" in fault
    with pytest.raises(PackageNotAllowed):
        POLICY.check(package)


@given(st.text())
def test_no_text_breaks_the_reading_or_gets_through_by_chance(text: str) -> None:
    policy = PackagePolicy.read([GIT])
    fault = policy.fault_of(f"git+https://{text}")
    assert fault is not None or text.lower().startswith("git.example.org")


def test_plain_names_need_the_index_in_the_list() -> None:
    assert PackagePolicy.read([GIT]).fault_of("flood==1.0") is not None
    assert PackagePolicy.read(["index"]).fault_of("flood==1.0") is None


def test_without_a_list_everything_is_allowed() -> None:
    assert EVERYTHING.fault_of("git+https://evil.example/x") is None
    assert PackagePolicy.read([]) == EVERYTHING


@pytest.mark.parametrize(
    "entry",
    ["Index", "*", "git.example.org", "git+https://", "git+https://*.example.org/", "https:///x",
     "git+https://git.example.org/lab/../", "git+https://git.example.org/lab/flood@v1",
     "https://files.example.org/?x", "file:///srv", "git+https://a:b@git.example.org/"],
)  # fmt: skip
def test_an_entry_that_cannot_be_compared_is_refused_by_name(entry: str) -> None:
    with pytest.raises(SettingsError, match="PLATFORM_PACKAGE_SOURCES"):
        PackagePolicy.read(["index", entry])


def test_the_hosts_of_the_list_are_those_that_builds_may_reach() -> None:
    assert POLICY.hosts == ("git.example.org", "files.example.org", "forge.example.org:8443")


def lock(*tables: str) -> Lock:
    entries = [f'[[packages]]\nname = "p{n}"\n{table}\n' for n, table in enumerate(tables)]
    return Lock.parse('lock-version = "1.0"\n' + "".join(entries))


def vcs(url: str) -> str:
    return f'vcs = {{ type = "git", url = "{url}", commit-id = "{COMMIT}" }}'


INDEX = 'version = "1"\nwheels = [{ url = "https://any.example/x.whl", hashes = { sha256 = "a" } }]'
ARCHIVE = 'archive = {{ url = "{}", hashes = {{ sha256 = "a" }} }}'


def test_a_lock_whose_packages_are_all_allowed_is_taken() -> None:
    POLICY.check_lock(
        lock(
            INDEX, vcs("https://git.example.org/lab/flood"), vcs("ssh://git@git.example.org/lab/x"),
            ARCHIVE.format("https://files.example.org/wheels/x.whl"),
        ),
        "flood",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (vcs("https://evil.example/lab/x"), "git+https://evil.example/lab/x"),
        (vcs("ssh://git@evil.example/lab/x"), "git+ssh://git@evil.example/lab/x"),
        (vcs("file:///srv/x"), "file:///srv/x"),
        (ARCHIVE.format("https://evil.example/x.whl"), "https://evil.example/x.whl"),
        (ARCHIVE.format("file:///srv/x.whl"), "file:///srv/x.whl"),
        ('archive = { path = "x.whl", hashes = { sha256 = "a" } }', "file:"),
        ('directory = { path = "x" }', "file:"),
    ],
)
def test_a_lock_is_refused_for_any_package_that_is_not_allowed(table: str, told: str) -> None:
    with pytest.raises(PackageNotAllowed) as refused:
        POLICY.check_lock(lock(INDEX, table), "flood==1.0")
    assert f"'flood==1.0' cannot be installed: it needs 'p1' from {told}," in str(refused.value)
    EVERYTHING.check_lock(lock(INDEX, table), "flood==1.0")


def test_a_lock_needs_the_index_where_packages_come_from_it() -> None:
    with pytest.raises(PackageNotAllowed, match="from a package index"):
        PackagePolicy.read([GIT]).check_lock(lock(INDEX), "flood")


def test_local_packages_of_a_lock_are_taken_where_local_sources_are_allowed() -> None:
    local = PackagePolicy.read(["index"], allow_local=True)
    local.check_lock(lock(INDEX, vcs("file:///srv/x"), 'directory = { path = "x" }'), "flood")


@pytest.mark.parametrize(
    ("address", "index_hosts", "is_allowed"),
    [
        ("https://files.index.example/a-1.0-py3-none-any.whl", (), True),
        ("https://git.example.org/api/9/pypi/files/a-1.0-py3-none-any.whl", (), False),
        ("https://GIT.example.org:443/api/9/a-1.0-py3-none-any.whl", (), False),
        ("https://user:pw@git.example.org/api/9/a-1.0-py3-none-any.whl", (), False),
        ("https://git.example.org/wheels/a-1.0-py3-none-any.whl", (), True),
        ("https://git.example.org/api/9/a-1.0-py3-none-any.whl", ("git.example.org",), True),
    ],
)
def test_an_index_that_a_package_names_is_not_the_index(
    address: str, index_hosts: tuple[str, ...], is_allowed: bool
) -> None:
    """A host of the list may be a forge, where everybody has a package index."""
    entries = ["index", "git+https://git.example.org/group/", "https://git.example.org/wheels/"]
    policy = PackagePolicy.read(entries, index_hosts=index_hosts)
    found = Lock.parse(
        'lock-version = "1.0"\n[[packages]]\nname = "a"\nversion = "1.0"\n'
        f'wheels = [{{ url = "{address}", hashes = {{ sha256 = "{"0" * 64}" }} }}]\n'
    )
    if is_allowed:
        policy.check_lock(found, "model")
    else:
        with pytest.raises(PackageNotAllowed, match=r"(?i)git\.example\.org"):
            policy.check_lock(found, "model")
