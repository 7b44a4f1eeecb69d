-- The upstream that the owner has set while the service runs: its group of settings in one text, sealed when
-- SECRET_KEY is set, and null once it was taken away. The generation rises with every change, so that all
-- workers and replicas notice.
CREATE TABLE kept_upstream (
    name TEXT NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL,
    sealed TEXT,
    changed_at BIGINT NOT NULL
);
