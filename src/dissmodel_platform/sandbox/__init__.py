"""Walls around model code."""
