"""What machines share through the DVC remote of a clone: what stages made, the run cache, fingerprints of machines.

`flows/dvc_lane.py` calls these, in a process that has dvc. Each is tried again while the remote does not answer, for
PATIENCE_SECONDS; a wrong key, or a remote that is not there, is told at once.

    files/…                       as `dvc push` puts it there
    runs/…                        the run cache: which outputs a command had with which inputs
    devices/NAME.json             the fingerprint of the machine that is called NAME
    checkpoints/…                 flows/checkpoints.py
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from prunelab.errors import REFUSED, InputError, in_one_line

PATIENCE_SECONDS = 120.0
PAUSE_SECONDS = 3.0
# What no waiting cures, and what it may cure although it is of such a kind: by the names of classes, for those of the
# file system of some remote are of packages that need not be here.
FINAL = {"DvcException", "PermissionError", "NoCredentialsError", "NoSuchBucket", "InputError"}
PASSING = {"UploadError", "DownloadError"}
BUGS = (TypeError, AttributeError, NameError, LookupError, AssertionError)
RUN = re.compile(r"runs/[0-9a-f]{2}/[0-9a-f]{64}/[0-9a-f]{64}")  # a run's file, not half of one under another name
DEVICE = Path("results/device.json")


def patiently(do: Callable[[], dict]) -> dict:
    """What `do` returns; {"error": a line} where it keeps failing, and at once where waiting cures nothing."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return do()
        except BUGS:
            raise
        except Exception as error:  # whatever the file system of any remote raises; it ends as an InputError
            kinds = {one.__name__ for one in type(error).__mro__}
            final = bool(kinds & FINAL and not kinds & PASSING) or getattr(error, "errno", None) in REFUSED
            if final or time.monotonic() > deadline:
                return {"error": f"the DVC remote: {type(error).__name__}: {in_one_line(error)}"}
            print(f"the DVC remote does not answer, trying again: {in_one_line(error)}", flush=True)
            time.sleep(PAUSE_SECONDS)


@contextlib.contextmanager
def opened() -> Iterator[tuple]:
    """(the repository, its default remote). Raises dvc's NoRemoteError where it has none."""
    from dvc.repo import Repo

    with Repo(_wait_for_lock=True) as repo:
        yield repo, repo.cloud.get_remote(None, "push")


def restore(names: list[str]) -> dict:
    """Of the stages `names`, each behind those that it needs, those that have to run: {"lacking": […]}.

    The others are in the workspace afterwards: unchanged, or restored from a run cache, of this clone or the remote.
    """
    from dvc.repo import lock_repo
    from dvc.stage.cache import RunCacheNotFoundError

    with opened() as (repo, remote), lock_repo(repo):
        _copy_new(remote.fs, remote.path, repo.cache.legacy.fs, repo.cache.legacy.path)
        graph = repo.index.graph
        stages = {stage.name: stage for stage in graph if stage.is_data_source is False and stage.cmd}
        lacking: list[str] = []
        for name in names:
            stage = stages[name]
            if any(other.name in lacking for other in graph.successors(stage) if not other.is_data_source):
                lacking.append(name)
            elif stage.changed():
                stage.remove_outs(ignore_remove=False)  # as `dvc repro` does: a killed run may have left halves
                try:
                    repo.stage_cache.restore(stage, pull=True)
                except RunCacheNotFoundError:
                    remote.fs.exists(remote.path)  # raises where it is the remote that has gone meanwhile
                    lacking.append(name)
                else:
                    stage.save()
                    stage.commit()
                    stage.dump(update_pipeline=False)
    return {"lacking": lacking}


def push(names: list[str]) -> dict:
    """Put what the finished stages `names`, at least one, made on the remote, then the run cache of this clone."""
    from dvc.repo import lock_repo

    with opened() as (repo, remote), lock_repo(repo):
        repo.push(targets=names)
        # Last, and only what the remote lacks: whoever finds a run there finds what it made, and `dvc push --run-cache`
        # would copy every run of this clone again.
        _copy_new(repo.cache.legacy.fs, repo.cache.legacy.path, remote.fs, remote.path)
    return {}


def _copy_new(here, source: str, there, target: str) -> None:
    """Copy the runs that `target` has not, between two of dvc's file systems; a run's file never changes."""
    from dvc_objects.fs import generic

    def runs(fs, folder: str) -> dict[str, str]:
        place = fs.join(folder, "runs")
        found = fs.find(place) if fs.exists(place) else []
        return {fs.as_posix(fs.relpath(path, folder)): path for path in found}

    known = runs(there, target)
    for name, path in runs(here, source).items():
        if name not in known and RUN.fullmatch(name):
            place = there.join(target, *name.split("/"))
            there.makedirs(there.parent(place), exist_ok=True)
            generic.copy(here, path, there, place)


def put_device(name: str) -> dict:
    """Publish the fingerprint of this machine, which is called `name`."""
    with opened() as (_, remote):
        remote.fs.makedirs(remote.fs.join(remote.path, "devices"), exist_ok=True)
        remote.fs.pipe_file(remote.fs.join(remote.path, "devices", f"{name}.json"), DEVICE.read_bytes())
    return {}


def take_device(name: str, into: str) -> dict:
    """Put the fingerprint that the machine `name` has published into the file `into`. Raises InputError without one."""
    from prunelab.disk.files import whole_file

    with opened() as (_, remote):
        place = remote.fs.join(remote.path, "devices", f"{name}.json")
        if not remote.fs.exists(place):
            raise InputError(
                f"efficiency.device: {name!r} has published no fingerprint; start its worker with "
                f"PRUNELAB_DEVICE={name} and --work-queue {name} (docs/workers.md)"
            )
        with whole_file(into) as partial:
            partial.write_bytes(remote.fs.cat_file(place))
    return {}
