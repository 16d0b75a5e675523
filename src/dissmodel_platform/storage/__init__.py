"""Bytes: where they are kept, what they are called, how they come in and how links open them."""
