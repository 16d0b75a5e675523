"""Signed webhooks of git forges: a merged pull request is synced at once."""

from __future__ import annotations

from fastapi import APIRouter, Request

from dissmodel_platform.api.bodies import read_body
from dissmodel_platform.api.context import Parts
from dissmodel_platform.api.schemas import WebhookAnswer
from dissmodel_platform.errors import NotAuthorised
from dissmodel_platform.registry.sync_runs import add_request
from dissmodel_platform.registry.webhooks import (
    MAX_BODY_BYTES,
    Forge,
    is_for,
    read_delivery,
    take_once,
)

router = APIRouter(prefix="/webhooks", tags=["registry"])


@router.post(
    "/{forge}", summary="Take a push from GitHub, GitLab, Gitea or Forgejo", status_code=202
)
async def webhook(forge: Forge, request: Request, parts: Parts) -> WebhookAnswer:
    """Ask for a sync and answer without waiting for it.

    The signature counts, not a key. Deliveries that were taken before, other repositories and
    other branches are answered and ignored.
    """
    settings = parts.settings
    if settings.webhook_secret is None or settings.configs_repo is None:
        raise NotAuthorised(
            "Webhooks are not set up here; the operator sets PLATFORM_WEBHOOK_SECRET."
        )
    body = await read_body(request, max_bytes=MAX_BODY_BYTES)
    secret = settings.webhook_secret.get_secret_value()
    delivery = read_delivery(forge, request.headers, body, secret)
    if not is_for(delivery, settings.configs_repo, settings.configs_branch):
        return WebhookAnswer(message="Not a push to the served branch; ignored.", syncing=False)
    async with parts.database.transaction() as connection:
        is_new = await take_once(connection, forge, delivery.id)
        if is_new:
            await add_request(connection, f"webhook:{forge.value}")
    if not is_new:
        return WebhookAnswer(message="Taken before; ignored.", syncing=False)
    return WebhookAnswer(message="The registry is being synced.", syncing=True)
