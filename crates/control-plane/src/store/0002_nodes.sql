-- The node that was asked last; NULL in rows from before there could be several.
ALTER TABLE sandboxes ADD COLUMN node_id TEXT;
