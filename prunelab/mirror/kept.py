"""What a finished study leaves for good: finished/<study>/, which the next study in this folder doesn't touch.

    results.csv            its rows, as the report has them
    losses.safetensors     a tensor a row, by its path (s1/magnitude-50): the loss of every window of text, nats
                           a token, or what else its task judges by, of every item; fp32
    trajectories.parquet   the weights that were followed in training, of the first seed (where a model was trained)
    curves.csv             the training curves of all seeds (where models were trained)
    params.yaml            its settings
    study.json             whose results these are, and when, of which revision of the code they were kept

Results of several studies are read together from here (prunelab/verdict), whatever params.yaml says by then. The stage
mirror writes the folder whenever it does not hold the study's present results, as a whole or not at all. With nothing
new only the standard library is imported.
"""

import csv
import datetime
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from prunelab.disk.files import read_json, sha256_file, whole_directory, write_json
from prunelab.errors import InputError

FOLDER = Path("finished")
ABOUT = "study.json"
LOSSES = "losses.safetensors"
TRAJECTORIES = "trajectories.parquet"
CURVES = "curves.csv"
REPORT, RESULTS, MODELS = Path("report"), Path("results"), Path("models")  # of the study in the current folder


class Kept(NamedTuple):
    """A finished study as it was kept."""

    folder: Path
    about: dict  # study, task, headline, seeds, key, settings, settings_sha256, git_revision, kept_at
    rows: list[dict[str, str]]  # of results.csv, as words; empty is unknown
    losses: dict[str, Any]  # by path, (items,) float64

    @property
    def name(self) -> str:
        return self.about["study"]

    def file(self, name: str) -> Path | None:
        """One of its files, None where the study left none."""
        path = self.folder / name
        return path if path.exists() else None


def key() -> str:
    """Hex sha256 of what the study in the current folder found and of its settings."""
    whole = hashlib.sha256()
    for path in (REPORT / "results.csv", Path("params.yaml")):
        if not path.exists():
            raise InputError(f"{path}: no such file; a study is kept when it is finished: dvc repro")
        whole.update(sha256_file(path).encode())
    return whole.hexdigest()


def is_kept(wanted: str, folder: Path = FOLDER) -> bool:
    """Whether a study's folder in `folder` holds the results with this key."""
    return any(_key_in(path) == wanted for path in Path(folder).glob(f"*/{ABOUT}"))


def _key_in(path: Path) -> str | None:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("key")
    except (ValueError, AttributeError):  # not ours, or cut short: it holds no results
        return None


def keep(folder: Path = FOLDER) -> None:
    """Keep the study in the current folder in `folder`, unless its results are there already.

    Raises InputError where results are missing, or where they are of another study than params.yaml.
    """
    wanted = key()
    if is_kept(wanted, folder):
        return
    from prunelab import tasks
    from prunelab.mirror import runs
    from prunelab.study import locations, params

    settings = params.load()
    rows = _rows(REPORT / "results.csv")
    expected = {f"{tag}/{variant.id}" for tag in settings.seeds for variant in settings.variants()}
    if {row.get("path") for row in rows} != expected:
        raise InputError(f"{REPORT / 'results.csv'}: is of another study than params.yaml; run this one: dvc repro")
    column = tasks.headline(settings).column
    with whole_directory(Path(folder) / settings.study, REPORT, RESULTS, MODELS) as out:
        shutil.copyfile(REPORT / "results.csv", out / "results.csv")
        shutil.copyfile("params.yaml", out / "params.yaml")
        places = {row["path"]: locations.results_of(settings, RESULTS, row["path"]) for row in rows}
        _keep_losses(places, column, out / LOSSES)
        _keep_training(settings.seeds, out)
        dumped = settings.model_dump(mode="json")
        about = {
            "study": settings.study, "task": settings.task, "headline": column, "seeds": settings.seeds,
            "key": wanted, "settings": dumped,
            "settings_sha256": hashlib.sha256(json.dumps(dumped, sort_keys=True).encode()).hexdigest(),
            "git_revision": runs.commit_of_code(),
            "kept_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        write_json(out / ABOUT, about)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the stage report writes it: dvc repro") from None


def _keep_losses(places: dict[str, Path], column: str, out: Path) -> None:
    """The tensor `column` of every row's windows.safetensors, of a dense one's reference.safetensors, in one file.

    places: where the results of each row lie, by its path.
    """
    import numpy as np
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save_file

    found = {}
    for path, place in places.items():
        name = "reference" if path.endswith("/dense") else "windows"
        source = place / f"{name}.safetensors"
        try:
            with safe_open(source, "np") as file:
                found[path] = file.get_tensor(column).astype(np.float32)
        except FileNotFoundError:
            raise InputError(f"{source}: no such file; the stage that judges {path} writes it: dvc repro") from None
        except SafetensorError as error:
            if name == "reference":
                continue  # of a task whose dense model leaves other figures there
            raise InputError(f"{source}: broken ({error}); judge {path} again: dvc repro -f") from None
    save_file(found, out)


def _keep_training(seeds: list[str], out: Path) -> None:
    """The followed weights of the first seed and the curves of all, as far as models were trained."""
    history = {tag: MODELS / tag / "dense" / "history" for tag in seeds}
    followed = history[seeds[0]] / TRAJECTORIES
    if followed.exists():
        shutil.copyfile(followed, out / TRAJECTORIES)
    curves = [
        {"seed": tag, **row}
        for tag, place in history.items()
        if (place / "curve.csv").exists()
        for row in _rows(place / "curve.csv")
    ]
    if curves:
        with open(out / CURVES, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, curves[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(curves)


def read(name: str, folder: Path = FOLDER) -> Kept:
    """The study `name` as it was kept. Raises InputError where it is not there, or broken."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    place = Path(folder) / name
    if not (place / ABOUT).exists():
        raise InputError(f"{place}: no finished study is kept there; run it: make study STUDY={name}")
    about = read_json(place / ABOUT)
    if missing := {"study", "headline", "seeds", "settings"} - set(about if isinstance(about, dict) else ()):
        raise InputError(
            f"{place / ABOUT}: says nothing of {', '.join(sorted(missing))}; delete {place} and keep it again"
        )
    try:
        losses = {path: values.astype("float64") for path, values in load_file(place / LOSSES).items()}
    except (FileNotFoundError, SafetensorError) as error:
        raise InputError(
            f"{place / LOSSES}: can't be read ({error}); delete {place} and keep the study again"
        ) from None
    return Kept(place, about, _rows(place / "results.csv"), losses)
