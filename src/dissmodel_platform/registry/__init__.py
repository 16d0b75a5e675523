"""Git-backed registry of models: mirror a repository, read it at a commit, check what it says."""
