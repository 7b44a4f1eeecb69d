-- Conversations and their turns. One SQL text for SQLite and PostgreSQL: TEXT and BIGINT alone,
-- times in milliseconds since 1970 by the database's clock.
CREATE TABLE conversations (
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    system TEXT,
    upstream_conversation TEXT,
    upstream_response TEXT,
    turns BIGINT NOT NULL,
    lease TEXT,
    lease_until BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (owner, id)
);

CREATE INDEX conversations_by_use ON conversations (used_at);

-- A turn is a question with its answer: half a pair cannot be written.
CREATE TABLE turns (
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    number BIGINT NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    partial BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (owner, id, number)
);

-- Gateway keys, as SHA-256 digests in hexadecimal.
CREATE TABLE gateway_keys (
    name TEXT NOT NULL PRIMARY KEY,
    digest TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
