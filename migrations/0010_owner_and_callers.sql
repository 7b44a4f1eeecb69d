-- What a key may, as JSON: its expiry and its limits. Where it is null, it may all that callers may.
ALTER TABLE gateway_keys ADD COLUMN limits TEXT;

-- What a key with limits has used, as JSON; the version is the condition of each change, so that replicas
-- count together.
CREATE TABLE allowances (
    owner TEXT PRIMARY KEY,
    version BIGINT NOT NULL,
    state TEXT NOT NULL
);

-- What keys used, by the day in UTC (days since 1970) and the model.
CREATE TABLE usage_by_day (
    day BIGINT NOT NULL,
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    requests BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    estimated BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (owner, day, model)
);

-- Who made what the upstream keeps under an id.
CREATE TABLE upstream_objects (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX upstream_objects_by_age ON upstream_objects (created_at);

-- What was done at the owner's doors.
CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    address TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL
);

CREATE INDEX audit_by_age ON audit (created_at);
