-- What a sync found, model by model, and what became of it.
ALTER TABLE sync_runs
    ADD COLUMN outcome text NOT NULL DEFAULT 'unchanged'
        CHECK (outcome IN ('published', 'unchanged', 'held', 'failed')),
    ADD COLUMN changed_keys jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN hold text;

-- A commit that is not published by itself: an administrator accepts it, or a later one replaces it.
CREATE TABLE registry_holds (
    revision      text PRIMARY KEY,
    reason        text NOT NULL,
    held_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    accepted_at   timestamptz,
    accepted_by   text
);

-- The catalogue of data sets; valid from its publication until the next row.
CREATE TABLE catalogs (
    from_seq      bigint PRIMARY KEY REFERENCES registry_publications,
    blob_oid      text,
    sources       json NOT NULL
);

-- Deliveries of webhooks that were taken, so that one that is sent again does nothing.
CREATE TABLE webhook_deliveries (
    forge         text NOT NULL,
    delivery_id   text NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (forge, delivery_id)
);
CREATE INDEX webhook_deliveries_received ON webhook_deliveries (received_at);
