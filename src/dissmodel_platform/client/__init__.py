"""The Python client: in the base install, without the libraries of the server."""
