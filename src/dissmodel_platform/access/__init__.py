"""Who may do what: keys and scopes."""
