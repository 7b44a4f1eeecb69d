-- In a step of its own, since not every database can fill a column in the transaction that adds it.
UPDATE conversations SET bytes = (
    SELECT COALESCE(SUM(OCTET_LENGTH(turns.question) + OCTET_LENGTH(turns.answer)), 0) FROM turns
    WHERE turns.owner = conversations.owner AND turns.id = conversations.id
);
