"""In which order files of tests are handed to the workers of `make test-slow`."""

from pathlib import Path

# The longest first, as `make test-slow PYTEST_ADDOPTS=--durations=40` tells them: a worker that draws one of these last
# works on while the other has nothing left.
LONGEST_FIRST = (
    "tests/pipeline/test_pipeline.py",
    "tests/flows/test_worker.py",
    "tests/pipeline/test_verdict_study.py",
    "tests/models/test_architecture_table.py",
    "tests/chaos/test_chaos.py",
    "tests/command/test_trying.py",
    "tests/pipeline/test_readme.py",
    "tests/pipeline/test_price_study.py",
)
ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items):
    def turn(item) -> int:
        name = item.path.relative_to(ROOT).as_posix() if item.path.is_relative_to(ROOT) else ""
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=turn)  # stable: within a file, and among the others, nothing moves
