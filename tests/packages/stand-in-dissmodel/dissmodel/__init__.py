"""Stands in for dissmodel where only its registry matters, since it installs in no time."""
