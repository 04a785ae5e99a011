-- What a team may have; NULL where the service's own limit holds.
ALTER TABLE teams ADD COLUMN max_sandboxes BIGINT;
ALTER TABLE teams ADD COLUMN max_length_s BIGINT;
ALTER TABLE teams ADD COLUMN max_vcpus BIGINT;
ALTER TABLE teams ADD COLUMN max_memory_mib BIGINT;
-- A banned team is refused everything, a blocked one whatever makes or changes something.
ALTER TABLE teams ADD COLUMN banned BIGINT NOT NULL DEFAULT 0;
ALTER TABLE teams ADD COLUMN blocked_reason TEXT;

-- The one key there was is that of the configuration, which every start writes anew.
DROP TABLE api_keys;

-- API keys and access tokens. Only hashes: of two kinds with the same bytes they are the same, so a
-- secret is looked up by both.
CREATE TABLE secrets_of_teams (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    hash TEXT NOT NULL,
    team_id TEXT NOT NULL REFERENCES teams (id),
    name TEXT NOT NULL,
    -- What a list shows of it.
    prefix TEXT NOT NULL,
    length BIGINT NOT NULL,
    first TEXT NOT NULL,
    last TEXT NOT NULL,
    -- Whether it is the one of the configuration.
    configured BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT,
    UNIQUE (kind, hash)
);

CREATE INDEX secrets_of_team ON secrets_of_teams (team_id, kind);
