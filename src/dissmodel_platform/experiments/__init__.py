"""Experiments: record, state machine, queue, recovery."""
