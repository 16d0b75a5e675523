-- What a model's request asks the resolver for: its lock is found by that, also where it was not made.
ALTER TABLE environments ADD COLUMN requirements text[];

-- Somebody asks for a new lock of a model's version; a worker makes it and writes down what came of it.
CREATE TABLE relocks (
    id              uuid PRIMARY KEY,
    model_name      text NOT NULL,
    publication     bigint NOT NULL REFERENCES registry_publications,
    requested_by    text NOT NULL,
    requested_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz,
    old_lock_sha256 text REFERENCES locks,
    new_lock_sha256 text REFERENCES locks,
    error           text,
    output_tail     text
);
