-- Written for SQLite and PostgreSQL alike: times are BIGINT microseconds since 1970, ids and JSON
-- are TEXT, truth is BIGINT 0 or 1.

CREATE TABLE teams (
    id TEXT PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    hash TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES teams (id),
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (team_id, name)
);

CREATE TABLE templates (
    id TEXT PRIMARY KEY,
    build_id TEXT NOT NULL,
    vcpus BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_mib BIGINT NOT NULL,
    envd_version TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    spawn_count BIGINT NOT NULL DEFAULT 0,
    last_spawned_at BIGINT
);

CREATE TABLE template_aliases (
    alias TEXT PRIMARY KEY,
    template_id TEXT NOT NULL REFERENCES templates (id),
    position BIGINT NOT NULL
);

-- A row is written before the node is asked, and stays a while after the sandbox ended.
CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES teams (id),
    template_id TEXT NOT NULL,
    build_id TEXT NOT NULL,
    alias TEXT,
    envd_version TEXT NOT NULL,
    state TEXT NOT NULL,
    lifecycle TEXT,
    metadata TEXT NOT NULL,
    secure BIGINT NOT NULL,
    internet BIGINT,
    vcpus BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_mib BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    ends_at BIGINT NOT NULL,
    ended_at BIGINT,
    end_reason TEXT,
    end_detail TEXT,
    idempotency_key TEXT,
    request_digest TEXT,
    UNIQUE (team_id, idempotency_key)
);

CREATE INDEX sandboxes_live ON sandboxes (team_id, state, ended_at) WHERE ended_at IS NULL;
CREATE INDEX sandboxes_ended ON sandboxes (ended_at) WHERE ended_at IS NOT NULL;
