"""A model that installs and imports."""

from dissmodel.executor import ModelExecutor


class Model(ModelExecutor):
    name = "good"
