-- What the upstream's login has become: cookies and key, sealed when SECRET_KEY is set. The version
-- rises with every change, so that other replicas notice.
CREATE TABLE upstream_sessions (
    name TEXT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    sealed TEXT NOT NULL,
    changed_at BIGINT NOT NULL
);
