-- Where a conversation goes on that a caller of /v1 sends whole each time: the digest of its
-- messages up to the last answer leads to the upstream's own ids.
CREATE TABLE continuations (
    owner TEXT NOT NULL,
    prefix TEXT NOT NULL,
    upstream TEXT NOT NULL,
    upstream_conversation TEXT NOT NULL,
    upstream_response TEXT NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (owner, prefix)
);

CREATE INDEX continuations_by_use ON continuations (used_at);

-- Of several upstreams, the one that keeps the conversation; null for the only one.
ALTER TABLE conversations ADD COLUMN upstream TEXT;

-- Answers that go on after their caller was told to come back. While alive_until lies ahead, some
-- process is at work on one that is not finished.
CREATE TABLE answers (
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    record TEXT NOT NULL,
    finished BIGINT NOT NULL,
    alive_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (owner, id)
);

CREATE INDEX answers_by_age ON answers (created_at);

-- What each gateway key has used, since its row began.
CREATE TABLE key_usage (
    owner TEXT NOT NULL PRIMARY KEY,
    requests BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    estimated BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
