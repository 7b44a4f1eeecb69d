-- What a conversation takes up: the bytes of its questions and answers.
ALTER TABLE conversations ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;

-- The conversation that an answer belongs to, with which it goes.
ALTER TABLE answers ADD COLUMN conversation TEXT;
