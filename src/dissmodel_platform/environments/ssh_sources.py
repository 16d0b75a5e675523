"""Package sources behind an ssh key: fetched by git alone, before any foreign code runs.

The room in which that happens has the key, and nothing runs there but git and ssh. The rooms in
which packages are resolved and built, by code of their own, get the clone to read and are told to
find the address there: they never see the key.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dissmodel_platform.environments.commands import Finished
from dissmodel_platform.environments.uv import PYTHON, Uv
from dissmodel_platform.environments.workshop import Room, SshAccess
from dissmodel_platform.registry.git_config import GitCredentials, ssh_command

_JOIN_PROXY = Path(__file__).parents[1].joinpath("sandbox", "join_proxy.py").resolve()
_ADDRESS = re.compile(r"git\+(ssh://[^\s#]+)")
_NO_KEY = (
    "a source over ssh that is not the model's own package: it needs a key, which what a package "
    "asks for does not get; name it in the spec's `package`, or publish it where no key is needed"
)


@dataclass(frozen=True)
class SshSources:
    """Clones of the ssh repositories that requirements name.

    Attributes
    ----------
    clones : mapping of str to Path
        Addresses, as git gets them, and their bare clones.
    """

    clones: Mapping[str, Path]

    @property
    def readable(self) -> tuple[Path, ...]:
        """What a room must show to use them."""
        return tuple(self.clones.values())

    @property
    def variables(self) -> Mapping[str, str]:
        """Variables that lead git from the addresses to the clones, and from no other to ssh."""
        variables = {
            "GIT_CONFIG_COUNT": str(len(self.clones)),
            "GIT_SSH_COMMAND": f"echo {shlex.quote(_NO_KEY)} >&2; false",
            "GIT_SSH_VARIANT": "ssh",
        }
        for number, (address, clone) in enumerate(self.clones.items()):
            variables[f"GIT_CONFIG_KEY_{number}"] = f"url.{clone.as_uri()}.insteadOf"
            variables[f"GIT_CONFIG_VALUE_{number}"] = address
        return variables


def fetch_ssh_sources(
    uv: Uv, requirements: Sequence[str], private: Path, explain: Callable[[Finished], None]
) -> SshSources:
    """Clone what requirement lines name by ``git+ssh``, with all branches and tags.

    Parameters
    ----------
    uv : Uv
        Runs git; its workshop says which key to use.
    requirements : sequence of str
        Requirement lines.
    private : Path
        An empty directory that no foreign code may ever change.
    explain : callable
        Raises where a command failed.

    Raises
    ------
    BuildFailed
        It took too long, or more room than is allowed.
    """
    addresses = sorted(
        {_repository(found[1]) for found in map(_ADDRESS.search, requirements) if found}
    )
    git = shutil.which("git") or "/usr/bin/git"
    room = _room_with_key(private, uv.workshop.ssh)
    clones = {}
    for number, address in enumerate(addresses):
        clone = private / f"{number}.git"
        done = uv.command(
            [git, "clone", "--quiet", "--bare", "--", address, str(clone)], room, cache=private
        )
        explain(done)
        clones[address] = clone
    return SshSources(clones)


def _repository(address: str) -> str:
    """Return an address without the version that may follow its path."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash}{path.rpartition('@')[0] or path}"


def _room_with_key(private: Path, access: SshAccess) -> Room:
    known_hosts = (access.known_hosts or Path.home() / ".ssh" / "known_hosts").absolute()
    credentials = GitCredentials(ssh_key=access.key, known_hosts=known_hosts)
    proxy_command = shlex.join([PYTHON, "-I", "-S", str(_JOIN_PROXY), "%h", "%p"])
    agent = os.environ.get("SSH_AUTH_SOCK", "") if access.key is None else ""
    variables = {
        "GIT_SSH_COMMAND": shlex.join(
            [*shlex.split(ssh_command(credentials)), "-o", f"ProxyCommand={proxy_command}"]
        )
    }
    if agent:
        variables["SSH_AUTH_SOCK"] = agent
    return Room(
        private,
        readable=(_JOIN_PROXY, known_hosts, *([access.key] if access.key else [])),
        sockets=(Path(agent),) if agent and Path(agent).is_socket() else (),
        network=True,
        variables=variables,
    )
