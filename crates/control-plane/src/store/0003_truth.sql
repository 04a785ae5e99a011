-- When its end was asked for by somebody.
ALTER TABLE sandboxes ADD COLUMN killing_at BIGINT;
-- When the time of its end last moved, and how often it has.
ALTER TABLE sandboxes ADD COLUMN moved_at BIGINT;
ALTER TABLE sandboxes ADD COLUMN moves BIGINT NOT NULL DEFAULT 0;
-- When the record was made of a sandbox that a node had and the records did not.
ALTER TABLE sandboxes ADD COLUMN adopted_at BIGINT;
-- When the node was first seen to hold nothing of it any more.
ALTER TABLE sandboxes ADD COLUMN released_at BIGINT;
UPDATE sandboxes SET released_at = ended_at WHERE ended_at IS NOT NULL;
-- They were written for operators, and are for teams from now on.
UPDATE sandboxes SET end_detail = NULL;

CREATE INDEX sandboxes_unreleased ON sandboxes (node_id)
    WHERE ended_at IS NOT NULL AND released_at IS NULL;
