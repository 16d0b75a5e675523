"""All that git is told besides its arguments: one configuration file and one environment."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from dissmodel_platform.errors import SettingsError
from dissmodel_platform.registry.remote import Remote

# What the operator set for the network and the programs; nothing else of the environment gets in.
_KEPT = (
    "PATH",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSH_AUTH_SOCK",
    *(
        name
        for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
        for name in (proxy, proxy.upper())
    ),
)

# Checks of what a tree or a .gitmodules file says. They would refuse a whole fetch, and with it
# every later commit, for one odd name; a bare mirror never acts on any of it, and the snapshot
# refuses such names one by one. Checks of the objects' own form stay on.
_NAME_CHECKS = (
    "duplicateEntries",
    "fullPathname",
    "hasDot",
    "hasDotdot",
    "hasDotgit",
    "nullSha1",
    "zeroPaddedFilemode",
    "gitattributesBlob",
    "gitattributesLarge",
    "gitattributesLineLength",
    "gitattributesMissing",
    "gitmodulesBlob",
    "gitmodulesLarge",
    "gitmodulesMissing",
    "gitmodulesName",
    "gitmodulesParse",
    "gitmodulesPath",
    "gitmodulesSymlink",
    "gitmodulesUpdate",
    "gitmodulesUrl",
)

_SETTINGS = """\
[core]
hooksPath = /dev/null
commitGraph = false
multiPackIndex = false
bigFileThreshold = 1m
deltaBaseCacheLimit = 16m
[pack]
threads = 2
windowMemory = 32m
[gc]
auto = 0
writeCommitGraph = false
[maintenance]
auto = false
[transfer]
fsckObjects = true
[fetch]
fsckObjects = true
unpackLimit = 1
recurseSubmodules = false
writeCommitGraph = false
[uploadpack]
allowAnySHA1InWant = true
[submodule]
recurse = false
[http]
followRedirects = initial
lowSpeedLimit = 500
lowSpeedTime = 60
[credential]
helper =
[protocol]
allow = never
"""

TOKEN_VARIABLE = "REGISTRY_TOKEN"  # noqa: S105 - a name
"""Environment variable of a command that talks to the remote."""

# The helper's text holds no secret: git's shell reads them from the environment of this command.
_HELPER = (
    "!f() { test \\\"$1\\\" = get && printf 'username=%s\\\\npassword=%s\\\\n' "
    '\\"$REGISTRY_USERNAME\\" \\"$REGISTRY_TOKEN\\"; }; f'
)


@dataclass(frozen=True)
class GitCredentials:
    """What a private registry asks for.

    Parameters
    ----------
    token : SecretStr or None
        Access token for https.
    token_file : Path or None
        File that holds the token instead; read anew for each command that talks to the remote, so
        that a token that lives for an hour can be replaced while the server runs.
    username : str
        Name that goes with the token; GitHub, GitLab and Forgejo take any for access tokens.
    ssh_key : Path or None
        Private key for ssh; ``None``: the keys of the operator's agent.
    known_hosts : Path or None
        Keys of the ssh hosts that are trusted; ``None``: the operator's own file.

    Raises
    ------
    SettingsError
        The token or the name is empty or holds a blank or a control character, or the token's
        file cannot be read.
    """

    token: SecretStr | None = None
    token_file: Path | None = None
    username: str = "x-access-token"
    ssh_key: Path | None = None
    known_hosts: Path | None = None

    def __post_init__(self) -> None:
        _check_word("user name", self.username)
        self.read_token()

    @property
    def has_token(self) -> bool:
        """Whether there is a token, in whichever place."""
        return self.token is not None or self.token_file is not None

    def read_token(self) -> str | None:
        """Return the token as it is now; ``None`` where there is none.

        Raises
        ------
        SettingsError
            As for the class.
        """
        if self.token_file is not None:
            try:
                token = self.token_file.read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                raise SettingsError(
                    f"PLATFORM_REGISTRY_TOKEN_FILE={self.token_file} cannot be read: {error}."
                ) from error
        elif self.token is not None:
            token = self.token.get_secret_value()
        else:
            return None
        _check_word("token", token)
        return token


def _check_word(what: str, text: str) -> None:
    if not text or " " in text or not text.isprintable():
        raise SettingsError(
            f"The registry's {what} is empty or holds a blank or a control character; check for a "
            "line end in the file or variable it comes from."
        )


@dataclass(frozen=True)
class GitAccess:
    """One mirror, one remote: what git may touch and reach."""

    remote: Remote
    repositories: Sequence[Path] = ()
    """Directories of the mirror and its replacement; they may belong to another user."""
    credentials: GitCredentials = field(default_factory=GitCredentials)


def configuration(access: GitAccess) -> str:
    """Text of the one configuration file that git reads."""
    lines = [_SETTINGS.rstrip(), f'[protocol "{access.remote.transport}"]', "allow = always"]
    for section in ('[fetch "fsck"]', "[fsck]"):
        lines += [section, *(f"{check} = ignore" for check in _NAME_CHECKS)]
    if access.remote.transport == "https" and access.credentials.has_token:
        # For this host alone: a redirect to another one is not answered.
        lines += [f'[credential "https://{access.remote.host}"]', f'helper = "{_HELPER}"']
    lines.append("[safe]")
    lines += [f"directory = {_value(path)}" for path in _safe_directories(access)]
    return "\n".join(lines) + "\n"


def environment(
    access: GitAccess, config_file: Path, environ: Mapping[str, str], *, network: bool
) -> dict[str, str]:
    """Environment of a git command, made from nothing.

    Parameters
    ----------
    access : GitAccess
        The credentials and the remote.
    config_file : Path
        Where the text of :func:`configuration` lies.
    environ : mapping of str to str
        The operator's; only its paths, proxies, certificates and ssh agent are kept.
    network : bool
        Whether the command talks to the remote; only then it gets the token.

    Raises
    ------
    SettingsError
        The token's file cannot be read.
    """
    variables = {name: environ[name] for name in _KEPT if environ.get(name)}
    if "SSL_CERT_FILE" in variables:  # libcurl, as git uses it, does not read this name
        variables.setdefault("GIT_SSL_CAINFO", variables["SSL_CERT_FILE"])
    variables |= {
        "LC_ALL": "C",
        "HOME": "/nonexistent",
        "XDG_CONFIG_HOME": "/nonexistent",
        "GIT_CONFIG_GLOBAL": str(config_file),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
    }
    if network:
        credentials = access.credentials
        if access.remote.transport == "ssh":
            variables["GIT_SSH_COMMAND"] = ssh_command(credentials)
        token = credentials.read_token() if access.remote.transport == "https" else None
        if token is not None:
            variables["REGISTRY_USERNAME"] = credentials.username
            variables[TOKEN_VARIABLE] = token
    return variables


def ssh_command(credentials: GitCredentials) -> str:
    """Command line of ssh: asks nothing, trusts known hosts only, gives up on silence."""
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": "20",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "ForwardAgent": "no",
        "PermitLocalCommand": "no",
        # A shared connection would outlive git, and keep open what we read to its end.
        "ControlMaster": "no",
        "ControlPath": "none",
    }
    if credentials.known_hosts is not None:
        options["UserKnownHostsFile"] = _ssh_value(credentials.known_hosts)
        options["GlobalKnownHostsFile"] = "/dev/null"
    if credentials.ssh_key is not None:
        options |= {"IdentitiesOnly": "yes", "IdentityAgent": "none"}
        options["IdentityFile"] = _ssh_value(credentials.ssh_key)
    words = ["ssh"]
    if credentials.ssh_key is not None and credentials.known_hosts is not None:
        words += ["-F", "/dev/null"]  # all that ssh needs is given; read no one's configuration
    words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return shlex.join(words)


def _safe_directories(access: GitAccess) -> list[Path]:
    directories = list(access.repositories)
    if access.remote.path is not None:
        # The forms in which git looks for a repository behind a path.
        path = access.remote.path
        directories += [path, path / ".git", Path(f"{path}.git")]
    return list(dict.fromkeys([*directories, *(path.resolve() for path in directories)]))


def _value(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _ssh_value(path: Path) -> str:
    """Quote a path for ssh's own reading of an option; '%' starts a token there."""
    return '"' + str(path).replace("%", "%%") + '"'
