-- Who owns what is kept for a key, however often the key itself is replaced. Where it is null, the
-- first half of the digest is the owner, as it was for the keys of that time.
ALTER TABLE gateway_keys ADD COLUMN owner TEXT;
