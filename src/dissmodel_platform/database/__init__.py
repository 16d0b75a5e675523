"""PostgreSQL, the only state: connections, migrations and the embedded server."""
