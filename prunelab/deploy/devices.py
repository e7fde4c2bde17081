"""What another machine measured of the same models: a results folder of its own, laid beside this study's."""

from pathlib import Path

from prunelab.disk.files import read_json
from prunelab.errors import InputError

SAME = ("dense_sha256", "weights_sha256", "prompt_tokens", "batch", "output_tokens")  # the models, and their work


def measured(files: dict[str, dict[str, dict]], folder) -> dict[str, dict[str, dict]]:
    """The JSON files of a study's rows (report.results.Study.files) with `efficiency` as in the results `folder`.

    Rows that were timed here and not there are left out. Raises InputError where the dense model of a seed was not
    measured there, or what was measured is other weights or other work.
    """
    folder, found = Path(folder).expanduser(), {}
    for path, mine in files.items():
        place = folder / path / "efficiency.json"
        if "efficiency" not in mine:  # it takes the times of another row over
            found[path] = mine
        elif place.exists():
            found[path] = mine | {"efficiency": _checked(read_json(place), mine["efficiency"], place)}
        elif path.endswith("/dense"):
            raise InputError(f"{place}: no such file; measure the dense model there, or take it out of deploy.devices")
    return found


def _checked(theirs, mine: dict, place: Path) -> dict:
    if not isinstance(theirs, dict):
        raise InputError(f"{place}: expected a JSON object, found {type(theirs).__name__}; measure it again there")
    for key in SAME:
        if theirs.get(key) != mine.get(key):
            raise InputError(
                f"{place}: measured with {key} {theirs.get(key)}, this study has {mine.get(key)}; measure these models "
                "there, or take it out of deploy.devices"
            )
    return theirs
