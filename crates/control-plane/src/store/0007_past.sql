-- What is kept of the past of sandboxes, as long as their records are. Triggers write what follows
-- from a change of a record, in the statement that changes it: whoever changes one cannot forget the
-- line in the log, and neither can be there without the other. (They are SQLite's; another database
-- would have its own.)

-- When a sandbox ran, once for each time it went on after a pause.
CREATE TABLE sandbox_runs (
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    team_id TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX runs_of_sandbox ON sandbox_runs (sandbox_id);
CREATE INDEX runs_of_team ON sandbox_runs (team_id, started_at);

INSERT INTO sandbox_runs (sandbox_id, team_id, started_at, ended_at)
    SELECT id, team_id, started_at, ended_at FROM sandboxes WHERE lifecycle IS NOT NULL;

CREATE TRIGGER run_of_new AFTER INSERT ON sandboxes WHEN NEW.state = 'running' BEGIN
    INSERT INTO sandbox_runs (sandbox_id, team_id, started_at)
        VALUES (NEW.id, NEW.team_id, NEW.started_at);
END;
CREATE TRIGGER run_begins AFTER UPDATE OF state ON sandboxes
    WHEN NEW.state = 'running' AND OLD.state NOT IN ('running', 'pausing') BEGIN
    INSERT INTO sandbox_runs (sandbox_id, team_id, started_at)
        VALUES (NEW.id, NEW.team_id, NEW.started_at);
END;
CREATE TRIGGER run_ends AFTER UPDATE OF state ON sandboxes
    WHEN NEW.state IN ('paused', 'ended') AND OLD.state <> NEW.state BEGIN
    UPDATE sandbox_runs SET ended_at = MAX(started_at,
            COALESCE(CASE NEW.state WHEN 'paused' THEN NEW.paused_at ELSE NEW.ended_at END,
                CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000))
        WHERE sandbox_id = NEW.id AND ended_at IS NULL;
END;

-- Levels: 0 debug, 1 info, 2 warn, 3 error. Fields are a JSON object of texts.
CREATE TABLE sandbox_log (
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    level BIGINT NOT NULL,
    message TEXT NOT NULL,
    fields TEXT NOT NULL,
    PRIMARY KEY (sandbox_id, seq)
);

-- A client may move the end of its sandbox every few seconds: the oldest lines go.
CREATE TRIGGER log_is_bounded AFTER INSERT ON sandbox_log WHEN NEW.seq > 1000 BEGIN
    DELETE FROM sandbox_log WHERE sandbox_id = NEW.sandbox_id AND seq <= NEW.seq - 1000;
END;

CREATE TRIGGER log_of_new AFTER INSERT ON sandboxes BEGIN
    INSERT INTO sandbox_log (sandbox_id, seq, at, level, message, fields) VALUES (NEW.id, 1,
        COALESCE(NEW.adopted_at, NEW.created_at), 1,
        CASE NEW.state WHEN 'starting' THEN 'sandbox asked for'
            ELSE 'sandbox had no record and got one' END,
        json_object('template', NEW.template_id, 'build', NEW.build_id));
END;

CREATE TRIGGER log_of_state AFTER UPDATE OF state ON sandboxes WHEN OLD.state <> NEW.state BEGIN
    INSERT INTO sandbox_log (sandbox_id, seq, at, level, message, fields) VALUES (NEW.id,
        (SELECT COALESCE(MAX(seq), 0) + 1 FROM sandbox_log WHERE sandbox_id = NEW.id),
        CASE WHEN NEW.state = 'ended' THEN NEW.ended_at
            WHEN NEW.state = 'running' AND OLD.state = 'starting' THEN NEW.started_at
            ELSE CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000 END,
        CASE NEW.state
            WHEN 'ended' THEN CASE WHEN NEW.end_reason IN ('crashed', 'start-failed') THEN 3
                WHEN NEW.end_reason IN ('lost', 'reclaimed') THEN 2 ELSE 1 END
            WHEN 'running' THEN CASE OLD.state WHEN 'pausing' THEN 2 ELSE 1 END
            WHEN 'paused' THEN CASE OLD.state WHEN 'resuming' THEN 2 ELSE 1 END
            ELSE 0 END,
        CASE NEW.state
            WHEN 'running' THEN CASE OLD.state WHEN 'starting' THEN 'sandbox started'
                WHEN 'pausing' THEN 'sandbox could not be paused and runs on'
                ELSE 'sandbox resumed' END
            WHEN 'paused' THEN CASE OLD.state
                WHEN 'resuming' THEN 'sandbox could not be resumed and stays paused'
                ELSE 'sandbox paused' END
            WHEN 'pausing' THEN 'pause begun'
            WHEN 'resuming' THEN 'resume begun'
            WHEN 'killing' THEN 'end asked for'
            WHEN 'ended' THEN 'sandbox ended'
            ELSE 'sandbox is ' || NEW.state END,
        json_patch('{}', CASE NEW.state
            WHEN 'ended' THEN json_object('reason', NEW.end_reason, 'detail', NEW.end_detail)
            WHEN 'running' THEN json_object('node', NEW.node_id, 'lifecycle', NEW.lifecycle)
            ELSE '{}' END));
END;

CREATE TRIGGER log_of_end AFTER UPDATE OF moves ON sandboxes WHEN OLD.moves <> NEW.moves BEGIN
    INSERT INTO sandbox_log (sandbox_id, seq, at, level, message, fields) VALUES (NEW.id,
        (SELECT COALESCE(MAX(seq), 0) + 1 FROM sandbox_log WHERE sandbox_id = NEW.id),
        NEW.moved_at, 0, 'end moved',
        json_object('endAt', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.ends_at / 1000000.0, 'unixepoch')));
END;

CREATE TRIGGER log_of_network AFTER UPDATE OF network ON sandboxes BEGIN
    INSERT INTO sandbox_log (sandbox_id, seq, at, level, message, fields) VALUES (NEW.id,
        (SELECT COALESCE(MAX(seq), 0) + 1 FROM sandbox_log WHERE sandbox_id = NEW.id),
        CAST(unixepoch('subsec') * 1000 AS INTEGER) * 1000, 1, 'network rules changed', '{}');
END;

-- The last sample of each minute. Seconds since 1970; sizes in bytes.
CREATE TABLE sandbox_samples (
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    minute BIGINT NOT NULL,
    at_s BIGINT NOT NULL,
    cpu_count BIGINT NOT NULL,
    cpu_used_pct REAL NOT NULL,
    mem_used BIGINT NOT NULL,
    mem_total BIGINT NOT NULL,
    mem_cache BIGINT NOT NULL,
    disk_used BIGINT NOT NULL,
    disk_total BIGINT NOT NULL,
    PRIMARY KEY (sandbox_id, minute)
);
CREATE INDEX samples_by_age ON sandbox_samples (minute);
