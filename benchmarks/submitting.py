"""What Prefect takes to accept a part of a study and a stage of it, for `benchmarks/scaling.py`.

    PREFECT_API_URL=http://127.0.0.1:4200/api python -m benchmarks.submitting COUNT

A process of its own, because Prefect reads its server's address when it is imported. Runs of a deployment are submitted
as flows/study.py does for parts elsewhere, to a pool without a worker, so none begins; tasks that do nothing are run as
its flow runs stages. Prints seconds as JSON.
"""

import json
import sys
import time

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments import run_deployment
from prefect.task_runners import ThreadPoolTaskRunner

POOL, NAME = "simulated", "simulated"


@task(cache_policy=NO_CACHE)
def nothing() -> None:
    """A stage that takes no time."""


@flow(name=NAME, task_runner=ThreadPoolTaskRunner(max_workers=4))
def simulated(count: int = 0) -> float:
    """Run `count` tasks; the seconds that took."""
    began = time.perf_counter()
    for future in [nothing.submit() for _ in range(count)]:
        future.result()
    return time.perf_counter() - began


def submit(count: int) -> float:
    """Seconds that `count` runs take to be accepted, one after the other, as a coordinator does it."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        found = client.create_flow(simulated)
        client.create_deployment(flow_id=found, name=NAME, work_pool_name=POOL)
    began = time.perf_counter()
    for _ in range(count):
        run_deployment(f"{NAME}/{NAME}", timeout=0, as_subflow=False)
    return time.perf_counter() - began


def main() -> None:
    count = int(sys.argv[1])
    print(json.dumps({"tasks": simulated(count), "runs": submit(count)}))


if __name__ == "__main__":
    main()
