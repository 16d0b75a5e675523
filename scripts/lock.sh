#!/bin/sh
# Resolve the dependencies into hashed locks that name no index. Usage: scripts/lock.sh path/to/uv
set -eu
uv=$1
compile() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --upgrade "$@"
}
echo uv | compile - --output-file requirements-bootstrap.lock
compile pyproject.toml --extra server --group build --output-file requirements.lock
compile pyproject.toml --extra server --group build --group dev --output-file requirements-dev.lock
