"""Whether commits carry the signature that the operator asks for, the served one included."""

from __future__ import annotations

import asyncio

from dissmodel_platform.registry.mirror import Mirror
from dissmodel_platform.registry.signatures import SignaturePolicy, UntrustedCommit
from dissmodel_platform.types import Revision


class Trust:
    """Looks at signatures, where there is a policy; asks for nothing where there is none.

    Parameters
    ----------
    mirror : Mirror
        Where the commits are.
    policy : SignaturePolicy or None
        Whose signature a commit needs; the list of signers is read anew each time.
    """

    def __init__(self, mirror: Mirror, policy: SignaturePolicy | None) -> None:
        self._mirror = mirror
        self._policy = policy

    async def check(self, revision: Revision, served: Revision | None) -> None:
        """Refuse a commit that no trusted key has signed; says it of the served one, too.

        Raises
        ------
        UntrustedCommit
            Says what git said of the signatures. What is served goes on being served.
        GitFailed
            The commit cannot be read.
        """
        if self._policy is None:
            return
        try:
            await asyncio.to_thread(self._mirror.verify, revision, self._policy)
        except UntrustedCommit as error:
            if served == revision:
                message = _still_served(revision, error.reason)
            else:
                distrust = await self.distrust_of(served)
                message = " ".join(filter(None, (str(error), distrust)))
            raise UntrustedCommit(message, reason=error.reason) from error

    async def distrust_of(self, served: Revision | None) -> str | None:
        """Say why the served commit should not be, by the list of signers as it is now.

        It may have been published before signatures were asked for, or its signer may have been
        taken off the list.
        """
        if self._policy is None or served is None:
            return None
        if not await asyncio.to_thread(self._mirror.has_commit, served):
            return f"Commit {served} goes on being served, and the mirror has it no more to verify."
        try:
            await asyncio.to_thread(self._mirror.verify, served, self._policy)
        except UntrustedCommit as error:
            return _still_served(served, error.reason)
        return None


def _still_served(revision: Revision, reason: str) -> str:
    return (
        f"Commit {revision} goes on being served and carries no good signature of a trusted key "
        f"({reason}): it was published before signatures were asked for, or its signer is no "
        f"longer on the list. Push a signed commit to replace it."
    )
