"""A study of the repository as plain settings, merged, for tests that change some of them."""

from pathlib import Path

from ruamel.yaml import YAML

from prunelab.study import studies

FOLDER = Path(__file__).parents[2] / "studies"


def text(name: str) -> str:
    """The study's whole params.yaml."""
    return studies.merge(name, FOLDER).text


def raw(name: str) -> dict:
    """Its settings, without comments."""
    return YAML(typ="safe", pure=True).load(text(name))
