"""Package → lock → content-addressed environment; the only home of ``uv``."""
