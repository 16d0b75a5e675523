"""A build backend that starts a child and waits for ever."""

import os
import subprocess
import time
from pathlib import Path


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    child = subprocess.Popen(["sleep", "600"])
    Path("building").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
