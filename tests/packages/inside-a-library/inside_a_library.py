"""Needs its own module in the library's package."""

from dissmodel.executor import ModelExecutor
from dissmodel.inside import WHERE


class Inside(ModelExecutor):
    name = WHERE
