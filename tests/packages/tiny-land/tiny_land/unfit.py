"""An executor whose `run` takes one argument, as before dissmodel 0.4."""

from dissmodel.executor import ExperimentRecord, ModelExecutor


class Unfit(ModelExecutor):
    name = "unfit"

    def load(self, record: ExperimentRecord) -> None:
        return None

    def run(self, record: ExperimentRecord) -> None:  # type: ignore[override]
        return None

    def save(self, result: None, record: ExperimentRecord) -> ExperimentRecord:
        return record
