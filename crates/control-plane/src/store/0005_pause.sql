-- What the request said of the end of its time, kept for every run of the sandbox.
ALTER TABLE sandboxes ADD COLUMN auto_pause BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN auto_pause_memory BIGINT NOT NULL DEFAULT 1;
ALTER TABLE sandboxes ADD COLUMN auto_resume BIGINT NOT NULL DEFAULT 0;
-- The seconds it was asked for; NULL in rows from before, and of what was taken in without a record.
ALTER TABLE sandboxes ADD COLUMN ttl_s BIGINT;
-- The environment a start from its files alone gets, as JSON; NULL when it is empty, and after the end.
ALTER TABLE sandboxes ADD COLUMN env TEXT;
-- The template its clients are told, where it is not the one its node has.
ALTER TABLE sandboxes ADD COLUMN origin_id TEXT;
-- The last pause: when, and whether the processes are kept. How many there were, and when the last
-- one was over.
ALTER TABLE sandboxes ADD COLUMN paused_at BIGINT;
ALTER TABLE sandboxes ADD COLUMN pause_memory BIGINT;
ALTER TABLE sandboxes ADD COLUMN pauses BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN resumed_at BIGINT;
-- Counts every change between running and paused. One lifecycle can be paused and run on, so who
-- writes what a node said before checks that nothing happened since.
ALTER TABLE sandboxes ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;

-- Templates made of sandboxes, one for each name and tag. Written before the node is asked.
CREATE TABLE snapshots (
    template_id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES teams (id),
    -- Its name in the namespace of its team; NULL when it has none.
    alias TEXT,
    tag TEXT NOT NULL,
    build_id TEXT NOT NULL,
    sandbox_id TEXT NOT NULL,
    origin_id TEXT NOT NULL,
    node_id TEXT,
    -- 'making', 'ready', or 'removing': nobody sees it any more, and its node may still have it.
    state TEXT NOT NULL,
    vcpus BIGINT NOT NULL,
    memory_mib BIGINT NOT NULL,
    disk_mib BIGINT NOT NULL,
    envd_version TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (team_id, alias, tag)
);

CREATE INDEX snapshots_of_team ON snapshots (team_id, created_at);
CREATE INDEX snapshots_of_sandbox ON snapshots (sandbox_id);
