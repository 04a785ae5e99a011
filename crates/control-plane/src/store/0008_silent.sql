-- Whether the guest agent was silent when the sandbox was paused.
ALTER TABLE sandboxes ADD COLUMN pause_agent_silent BIGINT NOT NULL DEFAULT 0;

-- The variables of what a snapshot was made of, JSON. NULL: none, or taken by an earlier version.
ALTER TABLE snapshots ADD COLUMN env TEXT;
