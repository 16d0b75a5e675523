-- What a model's request asks the resolver for: its lock is found by that, also where it was not made.
ALTER TABLE environments ADD COLUMN requirements text[];
