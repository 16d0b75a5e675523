-- Registry: every publication of a commit gets a number; a model's version is valid from the
-- publication that brought it (from_seq) until the one that replaced it (until_seq, exclusive).

CREATE TABLE registry_publications (
    seq           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    revision      text NOT NULL,
    published_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX registry_publications_revision ON registry_publications (revision, seq DESC);

CREATE TABLE model_versions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_name    text NOT NULL,
    blob_oid      text NOT NULL,
    class_name    text,
    package       text,
    description   text NOT NULL,
    document      json NOT NULL,
    source_text   text NOT NULL,
    UNIQUE (model_name, blob_oid)
);

CREATE TABLE model_history (
    model_name    text NOT NULL,
    version_id    bigint NOT NULL REFERENCES model_versions,
    from_seq      bigint NOT NULL REFERENCES registry_publications,
    until_seq     bigint REFERENCES registry_publications,
    PRIMARY KEY (model_name, from_seq)
);
CREATE UNIQUE INDEX model_history_current ON model_history (model_name) WHERE until_seq IS NULL;

CREATE TABLE registry_problems (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path          text NOT NULL,
    origin        text NOT NULL CHECK (origin IN ('listing', 'content')),
    line          integer,
    "column"      integer,
    severity      text NOT NULL CHECK (severity IN ('error', 'warning')),
    code          text NOT NULL,
    message       text NOT NULL
);
CREATE INDEX registry_problems_path ON registry_problems (path);

CREATE TABLE sync_runs (
    id            uuid PRIMARY KEY,
    trigger       text NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at   timestamptz,
    old_commit    text,
    new_commit    text,
    added         text[] NOT NULL DEFAULT '{}',
    changed       text[] NOT NULL DEFAULT '{}',
    removed       text[] NOT NULL DEFAULT '{}',
    problems      integer NOT NULL DEFAULT 0,
    git_output    text NOT NULL DEFAULT '',
    error         text
);
CREATE INDEX sync_runs_finished ON sync_runs (finished_at DESC);

-- A request waits until a run that started after it has ended; many requests share one run.
CREATE TABLE sync_requests (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trigger       text NOT NULL,
    requested_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_id        uuid REFERENCES sync_runs ON DELETE CASCADE
);
CREATE INDEX sync_requests_waiting ON sync_requests (id) WHERE run_id IS NULL;

-- Environments: what one model asks to have installed, and the lock that answers it.

CREATE TABLE locks (
    sha256        text PRIMARY KEY,
    content       text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE environments (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_name        text NOT NULL,
    request_sha256    text NOT NULL,
    package           text,
    state             text NOT NULL DEFAULT 'pending'
                      CHECK (state IN ('pending', 'building', 'ready', 'failed')),
    lock_sha256       text REFERENCES locks,
    environment_key   text,
    package_version   text,
    package_commit    text,
    dissmodel_version text,
    error             text,
    output_tail       text,
    seconds           double precision,
    updated_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (model_name, request_sha256)
);

-- Bytes are kept by content; this table says which content a public address stands for.

CREATE TABLE objects (
    uri           text PRIMARY KEY,
    sha256        text NOT NULL,
    size_bytes    bigint NOT NULL,
    media_type    text NOT NULL,
    label         text,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX objects_sha256 ON objects (sha256);

CREATE TABLE workers (
    id            uuid PRIMARY KEY,
    host          text NOT NULL,
    pid           integer NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- JSON that a model reads is kept as text (json, not jsonb): the order of its keys is the author's.

-- Experiments: `submission` never changes, `outcome` is written once, by the attempt that ends it.

CREATE TABLE experiments (
    id            text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{32}$'),
    status        text NOT NULL DEFAULT 'pending'
                  CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    priority      text NOT NULL DEFAULT 'normal',
    model_name    text NOT NULL,
    model_commit  text NOT NULL,
    submitted_by  text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at    timestamptz,
    finished_at   timestamptz,
    attempt       integer NOT NULL DEFAULT 0,
    losses        integer NOT NULL DEFAULT 0,
    worker        uuid,
    queue_job_id  bigint,
    reproduces    text REFERENCES experiments,
    submission    json NOT NULL,
    outcome       json NOT NULL DEFAULT '{}',
    progress      jsonb,
    updated_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX experiments_newest ON experiments (created_at DESC, id DESC);
CREATE INDEX experiments_status ON experiments (status, created_at DESC, id DESC);
CREATE INDEX experiments_open ON experiments (updated_at) WHERE status IN ('pending', 'running');

CREATE TABLE experiment_logs (
    experiment_id text NOT NULL REFERENCES experiments ON DELETE CASCADE,
    seq           bigint GENERATED ALWAYS AS IDENTITY,
    attempt       integer NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    stream        text NOT NULL CHECK (stream IN ('stdout', 'stderr', 'record', 'platform')),
    line          text NOT NULL,
    PRIMARY KEY (experiment_id, seq)
);

CREATE TABLE artifacts (
    experiment_id text NOT NULL REFERENCES experiments ON DELETE CASCADE,
    name          text NOT NULL,
    uri           text NOT NULL,
    sha256        text NOT NULL,
    size_bytes    bigint NOT NULL,
    media_type    text NOT NULL,
    PRIMARY KEY (experiment_id, name)
);

-- Secrets that every API process must share, such as the one that signs download links.
CREATE TABLE secrets (
    name          text PRIMARY KEY,
    value         bytea NOT NULL
);
