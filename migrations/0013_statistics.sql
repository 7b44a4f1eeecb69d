-- What was asked of whom, by the hour and by five minutes. A row is what one process counted in this time,
-- and is written anew as that grows; what processes counted is added up where it is read.
CREATE TABLE statistics (
    span BIGINT NOT NULL,
    begins_at BIGINT NOT NULL,
    writer TEXT NOT NULL,
    counts TEXT NOT NULL,
    PRIMARY KEY (span, begins_at, writer)
);
