"""What the platform does for its users, composed of the domain packages."""
