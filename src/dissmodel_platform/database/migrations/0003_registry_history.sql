-- Runs are counted: which one was the last does not hang on a clock that may be set back.
ALTER TABLE sync_runs ADD COLUMN number bigint;
UPDATE sync_runs AS r SET number = n.number
FROM (SELECT id, row_number() OVER (ORDER BY started_at, id) AS number FROM sync_runs) AS n
WHERE n.id = r.id;
ALTER TABLE sync_runs
    ALTER COLUMN number SET NOT NULL,
    ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY;
SELECT setval(pg_get_serial_sequence('sync_runs', 'number'),
              (SELECT coalesce(max(number), 0) + 1 FROM sync_runs), false);
CREATE UNIQUE INDEX sync_runs_number ON sync_runs (number);
CREATE INDEX sync_runs_unfinished ON sync_runs (id) WHERE finished_at IS NULL;
CREATE INDEX sync_requests_run ON sync_requests (run_id);

-- An acceptance is of one step: from the commit that was published then to the one that waits.
DELETE FROM registry_holds;  -- the next sync holds again what has to wait
ALTER TABLE registry_holds ADD COLUMN base text NOT NULL;
