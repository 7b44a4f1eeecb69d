-- A conversation's name, where its caller gave it one. The id follows from it, so that no two have the same.
ALTER TABLE conversations ADD COLUMN name TEXT;
