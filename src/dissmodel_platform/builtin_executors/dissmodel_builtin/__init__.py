"""Executors for models whose registry entry names no package.

The platform ships this package as data and installs it into an environment like any model's; its
own process never imports it. Importing it registers ``echo`` and ``game_of_life``, and loads none
of the geospatial libraries: those come with :mod:`dissmodel_builtin.life`, which ``game_of_life``
imports when it first loads its input.
"""

from dissmodel_builtin.echo import EchoExecutor
from dissmodel_builtin.game_of_life import GameOfLifeExecutor

__all__ = ["EchoExecutor", "GameOfLifeExecutor"]
