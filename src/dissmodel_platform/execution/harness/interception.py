"""Stand in for the object store inside a run: ``dissmodel.io`` writes into the run's directory."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

OUTPUTS_BUCKET = "dissmodel-outputs"


class RunStore:
    """The part of a MinIO client that ``dissmodel.io`` and executors use, on local files.

    Parameters
    ----------
    outputs : Path
        Directory of the run's outputs.
    experiment_id : str
        The experiment whose prefix (``experiments/<id>/``) is dropped from output keys.
    staged : mapping of str to str
        Local copies of the inputs, by original address.
    """

    def __init__(self, outputs: Path, experiment_id: str, staged: Mapping[str, str]) -> None:
        self._outputs = outputs
        self._prefix = f"experiments/{experiment_id}/"
        self._staged = dict(staged)

    def path_of(self, bucket: str, key: str) -> Path:
        """Return where an object of the outputs' bucket lies in this run.

        Raises
        ------
        PermissionError
            Another bucket, or a key that would leave the run's directory.
        """
        if bucket != OUTPUTS_BUCKET:
            raise PermissionError(
                f"A run writes to s3://{OUTPUTS_BUCKET}/ only, not to s3://{bucket}/{key}"
            )
        name = PurePosixPath(key.removeprefix(self._prefix))
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise PermissionError(f"{key!r} is not a name below the experiment's outputs")
        return self._outputs.joinpath(*name.parts)

    def put_object(
        self, bucket_name: str, object_name: str, data: IO[bytes], length: int = -1, **_: Any
    ) -> None:
        """Write an object from a stream of bytes (``length`` bytes, or all with -1)."""
        path = self.path_of(bucket_name, object_name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if length < 0:
                shutil.copyfileobj(data, file)
            else:
                file.write(data.read(length))

    def fput_object(self, bucket_name: str, object_name: str, file_path: str, **_: Any) -> None:
        """Write an object from a local file."""
        path = self.path_of(bucket_name, object_name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file_path, path)

    def get_object(self, bucket_name: str, object_name: str, **_: Any) -> IO[bytes]:
        """Open a staged input, or an output that this run has written."""
        return self._readable(bucket_name, object_name).open("rb")

    def fget_object(self, bucket_name: str, object_name: str, file_path: str, **_: Any) -> None:
        """Copy a staged input, or an output that this run has written, to a local file."""
        shutil.copyfile(self._readable(bucket_name, object_name), file_path)

    def stat_object(self, bucket_name: str, object_name: str, **_: Any) -> None:
        """Raise unless the object is there."""
        self._readable(bucket_name, object_name)

    def bucket_exists(self, bucket_name: str) -> bool:
        """Say whether a run may write to the bucket."""
        return bucket_name == OUTPUTS_BUCKET

    def make_bucket(self, bucket_name: str, **_: Any) -> None:
        """Accept the outputs' bucket, which is always there."""
        self.path_of(bucket_name, "any")

    def _readable(self, bucket: str, key: str) -> Path:
        address = f"s3://{bucket}/{key}"
        if address in self._staged:
            return Path(self._staged[address])
        if bucket == OUTPUTS_BUCKET and self.path_of(bucket, key).is_file():
            return self.path_of(bucket, key)
        raise FileNotFoundError(
            f"{address} was not staged for this run; name it in input_dataset or in a parameter"
        )


def intercept(store: RunStore) -> None:
    """Make ``store`` the client that ``dissmodel.io`` uses."""
    importlib.import_module("dissmodel.io._storage").set_default_client(store)
