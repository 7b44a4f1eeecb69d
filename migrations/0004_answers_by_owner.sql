-- What is kept for one owner is bounded whenever an answer is finished.
CREATE INDEX answers_by_owner ON answers (owner, created_at);

-- A start interrupts what was at work.
CREATE INDEX answers_at_work ON answers (owner) WHERE finished = 0;
