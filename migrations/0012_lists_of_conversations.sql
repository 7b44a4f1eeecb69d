-- So that a page of a long list, and the sum of what is kept for a key, cost what a short list costs.
CREATE INDEX conversations_of_owner_by_use ON conversations (owner, used_at, id);

CREATE INDEX conversations_of_owner_by_size ON conversations (owner, bytes);
