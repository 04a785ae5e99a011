-- The network part of the request, as JSON; NULL when it had none.
ALTER TABLE sandboxes ADD COLUMN network TEXT;
