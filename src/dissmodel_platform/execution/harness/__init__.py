"""What runs inside a model's own environment: standard library only, nothing of the platform.

It is started by file name with the environment's Python (see ``__main__``), imports the executor's
module once, and then runs experiments, each in a fork of itself or, where a fork is not safe, in
the process itself.
"""
