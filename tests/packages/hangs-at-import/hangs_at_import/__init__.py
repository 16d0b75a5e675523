"""A package whose import starts a child that holds its output open, and does not end."""

import subprocess
import time

child = subprocess.Popen(["sleep", "600"])
print("started", child.pid, flush=True)
time.sleep(600)
