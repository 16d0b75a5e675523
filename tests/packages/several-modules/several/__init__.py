"""One of the modules of a distribution."""

from dissmodel.executor import ModelExecutor


class Model(ModelExecutor):
    name = "several"
