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

-- Files of models that could not be published, from one publication until another. What is served
-- of such a model meanwhile, if anything, is an older version.
CREATE TABLE broken_models (
    model_name    text NOT NULL,
    from_seq      bigint NOT NULL REFERENCES registry_publications,
    until_seq     bigint REFERENCES registry_publications,
    PRIMARY KEY (model_name, from_seq)
);
CREATE UNIQUE INDEX broken_models_current ON broken_models (model_name) WHERE until_seq IS NULL;
INSERT INTO broken_models (model_name, from_seq)
SELECT DISTINCT substr(p.path, 8, length(p.path) - 12), l.seq
FROM registry_problems AS p, (SELECT max(seq) AS seq FROM registry_publications) AS l
WHERE p.severity = 'error' AND p.path LIKE 'models/%.toml' AND l.seq IS NOT NULL;

-- The catalogue's file at each publication, whether it could be published or not.
ALTER TABLE registry_publications ADD COLUMN catalog_oid text;

-- What read a publication's files; another reader reads them all again, and may read from the same
-- bytes another version. The newest one counts.
ALTER TABLE registry_publications ADD COLUMN reader text NOT NULL DEFAULT '';
ALTER TABLE model_versions DROP CONSTRAINT model_versions_model_name_blob_oid_key;
CREATE INDEX model_versions_content ON model_versions (model_name, blob_oid, id);
