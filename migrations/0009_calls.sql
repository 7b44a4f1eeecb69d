-- Calls under an Idempotency-Key: the answer is null while some process is at work, which vouches for
-- that until alive_until.
CREATE TABLE calls (
    owner TEXT NOT NULL,
    path TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    holder TEXT NOT NULL,
    answer TEXT,
    alive_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (owner, path, name)
);

CREATE INDEX calls_by_age ON calls (created_at);
