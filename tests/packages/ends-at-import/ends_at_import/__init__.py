"""A package whose import ends the interpreter."""

import os

print("about to end")
os._exit(9)
