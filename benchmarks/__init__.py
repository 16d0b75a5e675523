"""Figures with their budget, and a yardstick measured in the same run."""
