"""A build backend of the standard library alone, so that miniature packages build in no time.

It is copied beside each package that names it; all modules there make the wheel.
"""

import base64
import hashlib
import tomllib
import zipfile
from pathlib import Path


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    modules = [path for path in Path().rglob("*.py") if path.name != "plain_backend.py"]
    return _write(wheel_directory, {str(path): path.read_text() for path in sorted(modules)})


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = _project()["name"].replace("-", "_")
    return _write(wheel_directory, {f"__editable__{name}.pth": f"{Path().resolve()}\n"})


def _project():
    return tomllib.loads(Path("pyproject.toml").read_text())["project"]


def _digest(text):
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _write(wheel_directory, files):
    project = _project()
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {each}" for each in project.get("dependencies", ())),
    ]
    files |= {
        f"{stem}.dist-info/METADATA": "\n".join(metadata) + "\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},{_digest(text)},{len(text.encode())}\n" for name, text in files.items()]
    files |= {record: "".join([*lines, f"{record},,\n"])}
    with zipfile.ZipFile(Path(wheel_directory, f"{stem}-py3-none-any.whl"), "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), text)
    return f"{stem}-py3-none-any.whl"
