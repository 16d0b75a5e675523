-- The versions of dissmodel that a spec asks for: listings need them, and read no spec.
ALTER TABLE model_versions ADD COLUMN dissmodel text;
UPDATE model_versions SET dissmodel = document #>> '{model,dissmodel}'
WHERE document #>> '{model,dissmodel}' IS NOT NULL;
