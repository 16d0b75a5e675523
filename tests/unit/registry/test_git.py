"""What git is told: addresses, environment, configuration; and what of its words is passed on."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from dissmodel_platform.errors import GitError, RegistryError, SettingsError
from dissmodel_platform.registry.git import Git
from dissmodel_platform.registry.git_config import (
    GitAccess,
    GitCredentials,
    configuration,
    environment,
    ssh_command,
)
from dissmodel_platform.registry.git_faults import (
    GitFailed,
    GitFault,
    classify,
    disk_errors,
    redact,
    tail,
)
from dissmodel_platform.registry.git_process import MAX_MEMORY_BYTES
from dissmodel_platform.registry.remote import Remote, check_branch, parse_remote
from tests.processes import is_running

HTTPS = Remote("https://git.example.org/a/b.git", "https", "git.example.org")
SSH = Remote("git@git.example.org:a/b.git", "ssh", "git.example.org")
TOKEN = "s3cr3t-token-of-the-registry"
CREDENTIALS = GitCredentials(token=SecretStr(TOKEN))


@pytest.mark.parametrize(
    ("address", "transport", "host"),
    [
        ("https://github.com/DisSModel/dissmodel-configs", "https", "github.com"),
        ("https://git.example.org:8443/a/b.git", "https", "git.example.org:8443"),
        ("https://[2001:db8::1]/a/b.git", "https", "[2001:db8::1]"),
        ("ssh://git@git.example.org:2222/a/b.git", "ssh", "git.example.org:2222"),
        ("git@github.com:DisSModel/dissmodel-configs.git", "ssh", "github.com"),
        ("git.example.org:registry.git", "ssh", "git.example.org"),
        ("  https://github.com/a/b\n", "https", "github.com"),
    ],
)
def test_addresses_that_people_use_are_taken(address: str, transport: str, host: str) -> None:
    remote = parse_remote(address, allow_local=False)
    assert (remote.url, remote.transport, remote.host) == (address.strip(), transport, host)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "--upload-pack=touch /tmp/x",
        "-oProxyCommand=x",
        "ext::sh -c touch% /tmp/x",
        "ext::sh",
        "fd::17",
        "transport::https://example.org/a",
        "http://example.org/a",
        "git://example.org/a",
        "ftp://example.org/a",
        "javascript://example.org/a",
        "HTTPS+evil://example.org/a",
        "https://user:password@example.org/a",
        "https://token@example.org/a",
        "https://@example.org/a",
        "https://example.org/a?private_token=x",
        "https://example.org/a#x",
        "https://example.org/a\nb",
        "https://example.org/a%0ahost=evil",
        "https://example.org/a b",
        "https://example.org",
        "https://example.org/",
        "https:///a/b",
        "https://-oProxyCommand=x/a",
        "https://exa$mple.org/a",
        "https://example.org:port/a",
        "https://[::1/a",
        "ssh://-oProxyCommand=touch/a",
        "ssh://git:password@example.org/a",
        "ssh://git@example.org/-x",
        "ssh://-l@example.org/a",
        "git@-oProxyCommand=x:a",
        "-git@example.org:a",
        "git@example.org:-a",
        "git@example.org:",
        "a@b@c:d",
        "registry",
        "../registry.git",
        "C:\\registry",
        "\x1b[31mhttps://example.org/a",
    ],
)
def test_other_addresses_are_refused_without_repeating_them(address: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_remote(address, allow_local=True)
    assert "password" not in str(caught.value).replace("holds a password", "")
    assert "CONFIGS_REPO" in str(caught.value)


@pytest.mark.parametrize("address", ["/srv/registry.git", "file:///srv/registry.git"])
def test_a_local_repository_is_taken_only_where_allowed(address: str) -> None:
    with pytest.raises(SettingsError, match="PLATFORM_ALLOW_LOCAL_REGISTRY"):
        parse_remote(address, allow_local=False)
    remote = parse_remote(address, allow_local=True)
    assert remote == Remote("file:///srv/registry.git", "file", "", Path("/srv/registry.git"))


@pytest.mark.parametrize(
    "address", ["file://host/a", "file:relative", "/a/../b", "file:///a/%2e%2e/b"]
)
def test_odd_local_addresses_are_refused(address: str) -> None:
    with pytest.raises(SettingsError):
        parse_remote(address, allow_local=True)


@given(st.text(max_size=30) | st.from_regex(r"[a-z]{1,5}:{1,2}/{0,3}[-a-z@:/%.?#]{0,20}"))
def test_no_address_is_an_option_or_names_a_helper_once_it_is_taken(address: str) -> None:
    try:
        remote = parse_remote(address, allow_local=True)
    except SettingsError:
        return
    assert not remote.url.startswith("-")
    assert remote.url.isprintable()
    assert remote.transport in ("https", "ssh", "file")
    if remote.transport == "https":
        assert remote.url.startswith("https://")
        assert "@" not in remote.url.split("/")[2]


@pytest.mark.parametrize("branch", ["main", "v1.0", "feature/x-1", "réseau", "a@b", "@x", "+x"])
def test_branches_that_git_allows_are_taken(branch: str) -> None:
    assert check_branch(branch) == branch


REFUSED_BRANCHES = (
    *("", "-f", "a..b", "a b", "a:b", "a~1", "a^", "a*", "a\n", "/a", "a/", "a//b", "a.lock"),
    *("a.", "@", "@{-1}", "a\\b", ".a", "a/.b", "a.lock/b", "x" * 300),
)


@pytest.mark.parametrize("branch", REFUSED_BRANCHES)
def test_branches_that_git_refuses_are_refused_before(branch: str) -> None:
    with pytest.raises(SettingsError, match="CONFIGS_BRANCH"):
        check_branch(branch)


OPERATOR = {
    "PATH": "/usr/bin",
    "HOME": "/home/operator",
    "https_proxy": "http://proxy:3128",
    "SSL_CERT_FILE": "/etc/ca.pem",
    "SSH_AUTH_SOCK": "/run/agent",
    "GIT_DIR": "/elsewhere",
    "GIT_SSH_COMMAND": "sh -c evil",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "core.hooksPath",
    "GIT_CONFIG_PARAMETERS": "'a.b=c'",
    "GIT_PROXY_COMMAND": "evil",
    "GIT_TRACE_CURL": "1",
    "GIT_ALLOW_PROTOCOL": "ext",
    "GIT_ASKPASS": "/usr/bin/askpass",
    "LD_PRELOAD": "/evil.so",
    "API_KEYS": "secret",
    "DATABASE_URL": "postgresql://secret",
    "PLATFORM_REGISTRY_TOKEN": TOKEN,
}


def test_the_environment_holds_nothing_of_the_operators_but_the_network_and_the_path() -> None:
    variables = environment(GitAccess(HTTPS), Path("/x/config"), OPERATOR, network=False)
    assert {name: variables[name] for name in OPERATOR if name in variables} == {
        "PATH": "/usr/bin",
        "HOME": "/nonexistent",
        "https_proxy": "http://proxy:3128",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "SSH_AUTH_SOCK": "/run/agent",
    }
    assert variables["GIT_SSL_CAINFO"] == "/etc/ca.pem"
    assert variables["GIT_CONFIG_GLOBAL"] == "/x/config"
    assert variables["GIT_CONFIG_NOSYSTEM"] == "1"
    assert variables["GIT_TERMINAL_PROMPT"] == "0"
    assert TOKEN not in str(variables)


def test_only_commands_that_talk_to_the_remote_get_the_token() -> None:
    access = GitAccess(HTTPS, credentials=CREDENTIALS)
    local = environment(access, Path("/x"), {}, network=False)
    assert TOKEN not in str(local)
    remote = environment(access, Path("/x"), {}, network=True)
    assert remote["REGISTRY_TOKEN"] == TOKEN
    by_ssh = environment(GitAccess(SSH, credentials=CREDENTIALS), Path("/x"), {}, network=True)
    assert TOKEN not in str(by_ssh)


def test_the_configuration_allows_one_transport_and_holds_no_secret() -> None:
    text = configuration(GitAccess(HTTPS, credentials=CREDENTIALS))
    assert TOKEN not in text
    assert '[protocol]\nallow = never\n[protocol "https"]\nallow = always' in text
    assert text.count("allow = always") == 1
    assert '[credential "https://git.example.org"]' in text
    assert "[credential" not in configuration(GitAccess(HTTPS)).replace("[credential]", "")


def test_a_host_that_hands_out_drops_is_given_up(tmp_path: Path) -> None:
    git = Git(GitAccess(HTTPS), tmp_path / "config")
    least_bytes_per_second, seconds = (
        int(git.run("config", "--get", f"http.lowSpeed{what}").text) for what in ("Limit", "Time")
    )
    assert least_bytes_per_second >= 100
    assert 10 <= seconds <= 120


def test_the_configuration_quotes_paths(tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" \\ path'
    text = configuration(GitAccess(HTTPS, repositories=(odd,)))
    config = tmp_path / "config"
    config.write_text(text)
    git = Git(GitAccess(HTTPS, repositories=(odd,)), tmp_path / "own-config")
    listed = git.run("config", "--file", str(config), "--get-all", "safe.directory").text
    assert str(odd) in listed.splitlines()


def test_ssh_asks_nothing_and_trusts_known_hosts_only() -> None:
    words = shlex.split(
        ssh_command(GitCredentials(ssh_key=Path("/k/a b"), known_hosts=Path("/k/hosts")))
    )
    assert "BatchMode=yes" in words
    assert "StrictHostKeyChecking=yes" in words
    assert 'IdentityFile="/k/a b"' in words
    assert 'UserKnownHostsFile="/k/hosts"' in words
    assert words[words.index("-F") + 1] == "/dev/null"
    assert "-F" not in shlex.split(ssh_command(GitCredentials()))


def test_an_operators_shared_ssh_connection_is_not_used(tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    config.write_text("Host *\nControlMaster auto\nControlPath /run/shared-%C\nControlPersist 9h\n")
    words = [*shlex.split(ssh_command(GitCredentials())), "-F", str(config), "-G", "example.org"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "controlmaster false" in told
    assert not [line for line in told if line.startswith("controlpath ")]


@pytest.mark.parametrize("token", ["", "a\n", "a b", "a\nhost=evil", "a\0"])
def test_a_token_that_would_break_out_of_its_line_is_refused(token: str) -> None:
    with pytest.raises(SettingsError):
        GitCredentials(token=SecretStr(token))


def test_the_configuration_is_written_again_when_it_is_gone(tmp_path: Path) -> None:
    git = Git(GitAccess(HTTPS), tmp_path / "home" / "config")
    git.run("version")
    shutil.rmtree(tmp_path / "home")
    assert git.run("config", "--global", "protocol.allow").text == "never"


def test_secrets_are_redacted_wherever_git_prints_them() -> None:
    text = (
        f"fatal: could not read https://user:{TOKEN}@host/a\n"
        f"Authorization: Basic {TOKEN}\nproxy http://me:pw@proxy:1/ {TOKEN}"
    )
    clean = redact(text, [TOKEN, ""])
    assert TOKEN not in clean
    assert "pw" not in clean
    assert "https://***@host/a" in clean


def test_only_the_last_lines_are_kept() -> None:
    assert tail("\n".join(f"line {i}" for i in range(1000))).splitlines()[0] == "line 980"
    assert len(tail("x" * 100_000)) <= 4_000


# Printed by git 2.39 (and 2.47 for some), LC_ALL=C.
@pytest.mark.parametrize(
    ("stderr", "fault"),
    [
        (
            "fatal: unable to access 'https://h/a/': Could not resolve host: h",
            GitFault.UNREACHABLE,
        ),
        (
            "fatal: unable to access 'https://h/a/': Failed to connect to h port 443: "
            "Connection refused",
            GitFault.UNREACHABLE,
        ),
        (
            "fatal: unable to access 'https://h/a/': The requested URL returned error: 503",
            GitFault.UNREACHABLE,
        ),
        (
            "ssh: connect to host h port 22: Connection timed out\nfatal: Could not read from "
            "remote repository.\n\nPlease make sure you have the correct access rights\nand the "
            "repository exists.",
            GitFault.UNREACHABLE,
        ),
        (
            "fatal: unable to access 'https://h/a/': server certificate verification failed. "
            "CAfile: none CRLfile: none",
            GitFault.TLS,
        ),
        (
            "fatal: could not read Username for 'https://github.com': terminal prompts disabled",
            GitFault.AUTHENTICATION,
        ),
        (
            "remote: Invalid username or token.\nfatal: Authentication failed for 'https://h/a/'",
            GitFault.AUTHENTICATION,
        ),
        (
            "fatal: unable to access 'https://h/a/': The requested URL returned error: 403",
            GitFault.AUTHENTICATION,
        ),
        (
            "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            GitFault.AUTHENTICATION,
        ),
        (
            "Host key verification failed.\r\nfatal: Could not read from remote repository.",
            GitFault.HOST_KEY,
        ),
        (
            "remote: Not Found\nfatal: repository 'https://github.com/a/b/' not found",
            GitFault.NOT_FOUND,
        ),
        (
            "fatal: '/srv/x' does not appear to be a git repository\nfatal: Could not read from "
            "remote repository.",
            GitFault.NOT_FOUND,
        ),
        ("fatal: transport 'ext' not allowed", GitFault.TRANSPORT),
        ("fatal: couldn't find remote ref refs/heads/x", GitFault.NO_BRANCH),
        (
            "fatal: detected dubious ownership in repository at '/srv/x'\nfatal: Could not read "
            "from remote repository.",
            GitFault.OWNERSHIP,
        ),
        (
            "error: object 3e7f: treeNotSorted: not properly sorted\nfatal: fsck error in packed "
            "object\nfatal: fetch-pack: invalid index-pack output",
            GitFault.REFUSED_OBJECT,
        ),
        (
            "fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack "
            "output",
            GitFault.DISK_FULL,
        ),
        ("error: index-pack died of signal 25\nfatal: fetch-pack: x", GitFault.TOO_LARGE),
        (
            "fatal: Out of memory, malloc failed (tried to allocate 314572801 bytes)\n"
            "fatal: fetch-pack: invalid index-pack output",
            GitFault.TOO_LARGE,
        ),
        ("fatal: the remote end hung up unexpectedly\nfatal: early EOF", GitFault.UNREACHABLE),
        ("something that nobody has seen", GitFault.OTHER),
    ],
)
def test_what_git_prints_is_told_apart(stderr: str, fault: GitFault) -> None:
    assert classify(stderr, network=True) == fault


@pytest.mark.parametrize(
    ("stderr", "fault"),
    [
        ('error: open("a"): No such file or directory', GitFault.CORRUPT),
        ("fatal: not a git repository: '/x'", GitFault.CORRUPT),
        ("fatal: Unable to create '/x/packed-refs.lock': File exists.", GitFault.LOCKED),
        ("error: unable to write file /x: No space left on device", GitFault.DISK_FULL),
        ("error: could not lock config file /x: Permission denied", GitFault.OTHER),
        ("", GitFault.CORRUPT),
    ],
)
def test_a_command_that_stays_at_home_fails_for_the_disk_or_the_mirror(
    stderr: str, fault: GitFault
) -> None:
    assert classify(stderr, network=False) == fault


def test_a_failure_says_what_to_do_and_carries_the_command(tmp_path: Path) -> None:
    git = Git(GitAccess(HTTPS, credentials=CREDENTIALS), tmp_path / "config")
    with pytest.raises(GitFailed) as caught:
        git.run("cat-file", "-e", TOKEN, directory=tmp_path / "nothing.git")
    error = caught.value
    assert isinstance(error, GitError)
    assert isinstance(error, RegistryError)
    assert error.command == ("git", "cat-file", "-e", "***")
    assert error.exit_code == 128
    assert error.fault is GitFault.CORRUPT
    assert "not a git repository" in error.stderr_tail
    assert "cloned anew" in str(error)


def test_a_disk_error_without_a_file_says_what_it_was() -> None:
    with pytest.raises(GitFailed, match="they cannot be removed"), disk_errors():
        raise shutil.Error("they cannot be removed")


def test_a_missing_git_is_named(tmp_path: Path) -> None:
    git = Git(GitAccess(HTTPS), tmp_path / "config", environ={"PATH": str(tmp_path)})
    with pytest.raises(GitFailed, match=r"install git 2\.32") as caught:
        git.run("version")
    assert caught.value.fault is GitFault.MISSING


def fake_git(directory: Path, script: str) -> dict[str, str]:
    """Put a git of our own first on the path; it answers `version` and then runs the script."""
    program = directory / "git"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = version ]; then echo git version 2.40.1; exit; fi\n{script}\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin"}


def test_a_git_that_would_read_the_users_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.25.1\n")
    (tmp_path / "git").chmod(0o755)
    git = Git(GitAccess(HTTPS), tmp_path / "config", environ={"PATH": f"{tmp_path}:/bin"})
    with pytest.raises(GitFailed, match=r"2\.32"):
        git.run("fetch")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_the_time_limit_ends_the_helpers_too(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/helper; wait"
    git = Git(GitAccess(HTTPS), tmp_path / "config", environ=fake_git(tmp_path, script))
    with pytest.raises(GitFailed) as caught:
        git.run("fetch", timeout_seconds=3)
    assert caught.value.fault is GitFault.TIMEOUT
    helper = int((tmp_path / "helper").read_text())
    deadline = time.monotonic() + 30
    while is_running(helper):
        assert time.monotonic() < deadline, "the helper outlived its command"
        time.sleep(0.01)


def test_output_without_end_ends_the_command(tmp_path: Path) -> None:
    git = Git(GitAccess(HTTPS), tmp_path / "config", environ=fake_git(tmp_path, "exec yes"))
    with pytest.raises(GitFailed) as caught:
        git.run("ls-tree")
    assert caught.value.fault is GitFault.TOO_LARGE


def test_errors_without_end_fill_neither_memory_nor_the_pipe(tmp_path: Path) -> None:
    script = "yes | head -c 20000000 >&2; exit 1"
    git = Git(GitAccess(HTTPS), tmp_path / "config", environ=fake_git(tmp_path, script))
    with pytest.raises(GitFailed) as caught:
        git.run("fetch")
    assert len(caught.value.stderr_tail) <= 4_000


def test_what_a_host_prints_cannot_steer_a_terminal_or_break_a_record(tmp_path: Path) -> None:
    script = r"printf 'remote: \000 \033]0;taken\007\033[31mno\n' >&2; exit 1"
    git = Git(GitAccess(HTTPS), tmp_path / "config", environ=fake_git(tmp_path, script))
    with pytest.raises(GitFailed) as caught:
        git.run("fetch", network=True)
    assert caught.value.stderr_tail == "remote: \N{REPLACEMENT CHARACTER} no"
    assert str(caught.value).isprintable()


def test_no_part_of_a_secret_is_left_where_the_output_is_cut(tmp_path: Path) -> None:
    for lead in range(0, 60, 7):
        # Once where the last characters begin, and once where the last bytes that are kept do.
        script = (
            f"exec >&2; head -c 20000 /dev/zero | tr '\\0' y; printf ' %s ' {TOKEN}\n"
            f"head -c {16384 - len(TOKEN) - 2 - lead} /dev/zero | tr '\\0' x\n"
            f"printf ' %s ' {TOKEN}; head -c {3998 - lead} /dev/zero | tr '\\0' z; exit 1"
        )
        access = GitAccess(HTTPS, credentials=CREDENTIALS)
        git = Git(access, tmp_path / "config", environ=fake_git(tmp_path, script))
        with pytest.raises(GitFailed) as caught:
            git.run("fetch")
        said = caught.value.stderr_tail
        assert not [n for n in range(len(TOKEN) - 4) if TOKEN[n : n + 5] in said], said[:60]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits processes as Linux does")
def test_each_process_of_git_has_a_memory_limit(tmp_path: Path) -> None:
    script = 'until [ "$(ulimit -d)" != unlimited ]; do :; done; ulimit -d'
    git = Git(GitAccess(HTTPS), tmp_path / "config", environ=fake_git(tmp_path, script))
    assert git.run("fetch", timeout_seconds=20).text == str(MAX_MEMORY_BYTES // 1024)


def test_an_interrupted_runner_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    git = Git(GitAccess(HTTPS), tmp_path / "config", environ=fake_git(tmp_path, "sleep 60"))
    with git.stream("fetch") as process:
        git.interrupt()
        assert process.wait() == -9
        assert process.ended_for is GitFault.INTERRUPTED
    with pytest.raises(GitFailed) as caught:
        git.run("fetch")
    assert caught.value.fault is GitFault.INTERRUPTED


def test_a_command_reads_what_it_is_given_and_finds_no_repository_by_itself(tmp_path: Path) -> None:
    git = Git(GitAccess(HTTPS), tmp_path / "config")
    oid = git.run("hash-object", "--stdin", stdin=b"x" * 300_000).text
    assert len(oid) == 40
    with pytest.raises(GitFailed):
        git.run("rev-parse", "--git-dir")
