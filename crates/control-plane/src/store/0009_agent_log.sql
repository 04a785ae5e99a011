-- What guest agents have noted of what they did, beside what became of their sandboxes: apart from
-- that, so that however much it is, none of that goes for it. Lines of both have the same form.
CREATE TABLE agent_log (
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level BIGINT NOT NULL,
    message TEXT NOT NULL,
    fields TEXT NOT NULL,
    PRIMARY KEY (sandbox_id, seq)
);
CREATE INDEX agent_log_by_age ON agent_log (at);

-- How far each was read: the last line of the agent's last run, and the last line here.
CREATE TABLE agent_marks (
    sandbox_id TEXT PRIMARY KEY REFERENCES sandboxes (id) ON DELETE CASCADE,
    run TEXT NOT NULL,
    number BIGINT NOT NULL,
    seq BIGINT NOT NULL
);
