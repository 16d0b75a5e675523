"""A module that lies in a package of another distribution."""

WHERE = "inside"
