-- What happens to an experiment beside what it prints: phases, progress, states. Its numbers are
-- those of the log, so that both are one sequence that a reader can resume anywhere.
CREATE TABLE experiment_events (
    experiment_id text NOT NULL REFERENCES experiments ON DELETE CASCADE,
    seq           bigint NOT NULL DEFAULT nextval('experiment_logs_seq_seq'),
    attempt       integer NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind          text NOT NULL CHECK (kind IN ('phase', 'progress', 'status')),
    content       jsonb NOT NULL,
    PRIMARY KEY (experiment_id, seq)
);

-- A new state is an event whoever brings it about. At the end of the transaction, so that it comes
-- after the lines which that transaction writes: nothing follows a final state.
CREATE FUNCTION tell_experiment_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO experiment_events (experiment_id, attempt, kind, content)
    SELECT NEW.id, NEW.attempt, 'status', jsonb_build_object('status', NEW.status)
    FROM experiments WHERE id = NEW.id;
    PERFORM pg_notify('experiment_events', NEW.id);
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER tell_new_experiment AFTER INSERT ON experiments
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tell_experiment_status();
CREATE CONSTRAINT TRIGGER tell_experiment_status AFTER UPDATE OF status ON experiments
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.status <> NEW.status)
    EXECUTE FUNCTION tell_experiment_status();

INSERT INTO experiment_events (experiment_id, attempt, at, kind, content)
SELECT id, attempt, coalesce(finished_at, started_at, created_at), 'status',
       jsonb_build_object('status', status)
FROM experiments;

-- Progress changes a few times a second: with room on the page and no index on what changes, such an
-- update leaves the indexes alone. Open experiments are found by their status.
DROP INDEX experiments_open;
ALTER TABLE experiments SET (fillfactor = 70);

-- A submission that is sent again, since its answer was lost, is the one that is there already.
ALTER TABLE experiments ADD COLUMN idempotency_key text, ADD COLUMN request_sha256 text;
CREATE UNIQUE INDEX experiments_idempotency_key ON experiments (submitted_by, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- What workers have counted, for Prometheus: sums that only grow, whoever comes and goes.
CREATE TABLE worker_totals (
    name          text NOT NULL,
    label         text NOT NULL,
    bucket        text NOT NULL,
    value         double precision NOT NULL,
    PRIMARY KEY (name, label, bucket)
);
ALTER TABLE workers ADD COLUMN slots integer NOT NULL DEFAULT 1;
