-- Each turn has an id before it is committed, so that after a commit of which no answer came it can
-- be looked up whether it is kept.
ALTER TABLE turns ADD COLUMN turn_id TEXT;

-- The turn that was given up last: should its commit arrive late, it keeps nothing.
ALTER TABLE conversations ADD COLUMN revoked TEXT;
