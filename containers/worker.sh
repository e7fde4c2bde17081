#!/bin/sh
# A worker in a clone of its own, which is a volume and stays (docs/workers.md); made the first time.
set -eu

if [ ! -e .git ]; then
    git clone -- "$PRUNELAB_REPOSITORY" .
    mkdir -p .prunelab
    touch .prunelab/worker
fi
# Where results are shared; the keys are in the environment, and only there.
python -m dvc remote add --local --force --default shared "$PRUNELAB_REMOTE"
if [ -n "${AWS_ENDPOINT_URL:-}" ]; then
    python -m dvc remote modify --local shared endpointurl "$AWS_ENDPOINT_URL"
fi
pip install --quiet --no-deps --no-build-isolation --editable .
exec prefect worker start --pool "$PRUNELAB_POOL" --type process --limit 1 --work-queue default --with-healthcheck
