"""The data half of the stage fetch: from a source of rows to what a model is trained and judged on.

Below the folder `price`: pictures/ (each under the hash of its bytes), train.jsonl, validation.jsonl, test.jsonl (a row
a line, see `rows.of_part`) and manifest.json, which says where all of it is from, whether it may be passed on, what was
dropped and why, and how it was split.
"""

import hashlib
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prunelab.data import sources
from prunelab.data.sources import Brought
from prunelab.disk import files
from prunelab.errors import InputError
from prunelab.tasks.price import cards, rows
from prunelab.tasks.price.bringing import pictures, splitting, tables
from prunelab.tasks.price.rows import FOLDER, PARTS, Problem, Row

TOLD = 3  # reasons on the screen; the manifest has all
HOPELESS = 50  # rows that cannot be used before any that can: then the network is down, or the table misread
MOST_DROPPED = 0.5  # of the rows: more is no data with gaps


def prepare(settings, out: Path) -> dict:
    """Bring the rows of `settings.price`, and write them with their pictures into `out`/price; tells what it found.

    Raises InputError for the first bad row and the number of further ones, unless `bad_rows: drop` lists them in the
    manifest; for a part without an item; for whatever `tables` and `sources` refuse. Returns the manifest.
    """
    price = settings.price
    print(f"rows: {price.rows.kind} {price.rows.name or f'{price.cards.count} drawn here'}", flush=True)
    place = Path(out) / FOLDER
    place.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=out) as scratch:
        found, facts = _found(price, Path(scratch))
        good = [row for row in found if isinstance(row, Row)]
        problems = [problem for problem in found if isinstance(problem, Problem)]
        if price.bad_rows == "refuse":
            _refuse(problems)
        written = []
        for one in pictures.store(good, place / "pictures"):
            if isinstance(one, Problem):
                problems.append(one)
                if len(problems) == HOPELESS and not written:
                    _refuse(problems, "so far no row can be used")
            else:
                written.append(_as_written(*one))
    if price.bad_rows == "refuse":
        _refuse(problems)
    if len(problems) > MOST_DROPPED * len(found):
        _refuse(problems, f"that is {len(problems)} of {len(found)} rows, too many to go without")
    if not written:
        raise InputError(f"price.rows: {price.rows.name}: expected rows, found none")
    manifest = _write(written, problems, facts, price, place)
    files.write_json(place / "manifest.json", manifest)
    _tell(manifest, problems, price)
    return manifest


def check(settings) -> None:
    """Raises InputError for settings that a model of prices has no use for, or cannot do without."""
    price, fetch = settings.price, settings.fetch
    if price is None:
        raise InputError("price: null, but task is price; fill it in, as studies/price-cards.yaml does")
    if price.tower is not None and not settings.train.epochs:
        raise InputError("train.epochs: 0, but the eyes of price.tower are new and must learn; raise it")
    for key in ("text", "split", "calibration"):
        if getattr(fetch, key) is not None:
            raise InputError(f"fetch.{key}: says nothing where task is price, whose rows stand in price.rows; set null")
    if settings.quality.texts:
        raise InputError("quality.texts: say nothing where task is price, whose models write prices alone; set []")
    if not price.rows.pass_on and fetch.remote is None:
        raise InputError(
            "fetch.remote: null, so `dvc push` would pass on what price.rows.pass_on: false keeps; set kept-here, or a "
            "remote of your own"
        )


def _found(price, scratch: Path) -> tuple[list[Row | Problem], dict]:
    """Every row of the source, and what the manifest says of it."""
    if price.rows.kind == "cards":
        tables.require(price, cards.COLUMNS, "the cards")
        facts = {"kind": "cards", "name": None, **price.cards.model_dump(), "licence": price.rows.licence}
        return list(rows.read(cards.rows(price.cards), "cards", None, False, price)), facts
    brought = sources.bring(price.rows, scratch, tables.DEFAULT_FILES, repo_type="dataset")
    if price.rows.pictures is not None:  # beside the tables in the hub's own cache; hashes of pictures are of rows
        beside = price.rows.model_copy(update={"files": price.rows.pictures, "sha256": None})
        sources.bring(beside, scratch, (), repo_type="dataset")
    # All rows are read before the scratch folder goes; pictures follow while it is still there.
    return list(_rows(brought, price)), brought.facts


def _rows(brought: Brought, price) -> Iterator[Row | Problem]:
    # What the stage inputs knows by its hash is a folder, or a file alone.
    alone = price.rows.kind == "path" and Path(price.rows.name).expanduser() in brought.files
    for path in brought.files:
        name = path.relative_to(brought.folder).as_posix()
        raws = tables.read(path, name, price)
        for row in rows.read(raws, name, path.parent, price.rows.kind == "path", price):
            if alone and isinstance(row, Row) and isinstance(row.picture, Path):
                raise InputError(
                    f"price.rows.name: {price.rows.name}: expected the folder of the table and its pictures, found the "
                    f"table alone; set name: {path.parent} and files: {name}"
                )
            yield row


def _refuse(problems: list[Problem], why: str = "mend it, or set price.bad_rows: drop to go without") -> None:
    """Raises InputError where there are any."""
    if problems:
        more = f" (and {len(problems) - 1} more bad rows)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0].where}: {problems[0].reason}{more}; {why}")


def _as_written(row: Row, name: str, sha256: str) -> dict:
    link = {"url": row.picture} if isinstance(row.picture, str) else {}
    return {
        "id": row.id, "item": row.item, "where": row.where, "picture": f"pictures/{name}", "sha256": sha256, **link,
        "price": row.price, "columns": row.columns, "prompt": row.prompt, "answer": row.answer,
    }  # fmt: skip


def _write(written: list[dict], problems: list[Problem], facts: dict, price, place: Path) -> dict:
    """Split the rows and write them; the manifest."""
    split = price.split
    parts = splitting.split([row["item"] for row in written], split.validation_percent, split.test_percent, split.seed)
    entries = {}
    for part in PARTS:
        own = [row for row in written if parts[row["item"]] == part]
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in own).encode()
        (place / f"{part}.jsonl").write_bytes(lines)
        costs = [row["price"] for row in own]
        entries[part] = {
            "rows": len(own), "items": len({row["item"] for row in own}),
            "sha256": hashlib.sha256(lines).hexdigest(), "min": min(costs), "median": statistics.median(costs),
            "mean": statistics.fmean(costs), "max": max(costs),
        }  # fmt: skip
        if facts["kind"] == "cards":
            entries[part]["oracle_mae"] = cards.errors(costs, [row["columns"] for row in own])
    stored = sorted({(row["sha256"], row["picture"]) for row in written})
    listing = "".join(f"{sha256}  {name}\n" for sha256, name in stored)
    return {
        "source": facts,
        "licence": facts["licence"],
        "pass_on": price.rows.pass_on,
        "rows": len(written),
        "items": len(parts),
        "pictures": {
            "count": len(stored), "sha256": hashlib.sha256(listing.encode()).hexdigest(),
            "bytes": sum((place / name).stat().st_size for _, name in stored),
            "by_url": {row["url"]: row["sha256"] for row in written if "url" in row},
        },
        "dropped": [problem._asdict() for problem in problems],
        "split": split.model_dump() | {"sha256": splitting.fingerprint(parts)},
        "duplicates_over_the_split": splitting.doubled([row | {"part": parts[row["item"]]} for row in written]),
        "parts": entries,
    }  # fmt: skip


def _tell(manifest: dict, problems: list[Problem], price) -> None:
    """Print what was found, a line a subject."""
    form, currency = f",.{price.decimals}f", price.currency
    for part, entry in manifest["parts"].items():
        costs = ", ".join(f"{word} {currency}{entry[word]:{form}}" for word in ("min", "median", "max"))
        print(f"  {part}: {entry['rows']} rows of {entry['items']} items, {costs}", flush=True)
    if problems:
        reasons = Counter(problem.reason.split(": ")[-1] for problem in problems).most_common()
        told = ", ".join(f"{count} × {reason}" for reason, count in reasons[:TOLD])
        more = f" and {len(reasons) - TOLD} more reasons" if len(reasons) > TOLD else ""
        print(
            f"  dropped: {len(problems)} rows ({told}{more}), first {problems[0].where}; all are in the manifest",
            flush=True,
        )
    if both := manifest["duplicates_over_the_split"]["pictures"]:
        print(
            f"  pictures on both sides of the split: {both}, of {manifest['duplicates_over_the_split']['rows']} rows; "
            "name what they share in price.columns.item, or the test is of what was learnt by heart",
            flush=True,
        )
    if not manifest["pass_on"]:
        print(f"  licence: {manifest['licence'] or 'none given'}; not passed on: no picture in the report", flush=True)
