"""Which row of a study a stage is about: the options that dvc.yaml gives, and the paths that hang on them.

DVC puts a value as it is into the text of a command, where the shell would run what stands in it. Only a mapping is
written as options whose values are quoted: `${item}` becomes `--method wanda --rate 50 --seed s1`. So nothing else of
the settings stands in a command, and its paths say @seed and @variant (characters that no shell reads as more), which
are filled in here, once both are known to be names and nothing else.
"""

import argparse
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from prunelab.errors import InputError
from prunelab.recipes import variants
from prunelab.study.params import FIRST_SEED, Tag


def add_variant(parser: argparse.ArgumentParser, about: str) -> None:
    """The id of a row, as a word by hand, as an option, or as method and rate; `about` is the help of the word."""
    # SUPPRESS: else a missing word would put its default over what the option said.
    parser.add_argument("variant", nargs="?", default=argparse.SUPPRESS, help=about)
    parser.add_argument("--variant", help="the same, as dvc.yaml says it")
    parser.add_argument("--method", help="of prune.methods, with --rate instead of the variant")
    parser.add_argument("--rate", help="of prune.rates, such as 50 or 2of4")


def add_seed(parser: argparse.ArgumentParser, about: str = "tag of the seed, such as s2 (s1: the study's own)") -> None:
    parser.add_argument("--seed", default=FIRST_SEED, help=about)


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The options of a stage, `variant` whole and @seed and @variant in its paths filled in.

    Raises InputError for a seed or variant that is none, before anything is read or written.
    """
    told = parser.parse_args(argv)
    named = {"@seed": tag_of(told.seed)}
    if hasattr(told, "method"):
        if (told.method is None) != (told.rate is None) or (told.method is None) == (told.variant is None):
            parser.error("name one row: its id, such as wanda-50, or --method and --rate")
        told.variant = told.variant or f"{told.method}-{told.rate}"
        named["@variant"] = told.variant
    for key, path in vars(told).items():
        if isinstance(path, Path):
            setattr(told, key, _filled_in(path, named))
    return told


def tag_of(seed: str) -> str:
    """A seed's tag. Raises InputError where it is none."""
    try:
        return TypeAdapter(Tag).validate_python(seed)
    except ValidationError:
        raise InputError(f"seed {seed!r}: expected a tag of `seeds` in params.yaml, such as s1 or s2") from None


def _filled_in(path: Path, named: dict[str, str]) -> Path:
    text = str(path)
    if "@variant" in named and "@variant" in text:
        variants.parse(named["@variant"])  # InputError: by hand, where no path hangs on it, any name will do
    for word, name in named.items():
        text = text.replace(word, name)
    return Path(text)
