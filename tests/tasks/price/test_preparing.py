"""What the stage fetch writes of rows with pictures, from every kind of source, and what it tells of bad ones."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from prunelab.data import sources
from prunelab.errors import InputError
from prunelab.tasks.price import preparing, rows
from tests.helpers import loopback
from tests.tasks.price.shop import picture, settings, shop

TEN = [f"{number}.50" for number in range(1, 11)]


def prepared(folder: Path, out: Path, **changed) -> dict:
    out.mkdir()
    return preparing.prepare(settings(folder, **changed), out)


def all_rows(out: Path) -> list[dict]:
    return [row for part in rows.PARTS for row in rows.of_part(out, part)]


def message(folder: Path, out: Path, **changed) -> str:
    """The one line with which it ends."""
    with pytest.raises(InputError) as error:
        prepared(folder, out, **changed)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_table_and_its_pictures_become_prompts_and_answers(tmp_path, capsys):
    manifest = prepared(shop(tmp_path / "shop", TEN), tmp_path / "out")
    found = {row["id"]: row for row in all_rows(tmp_path / "out")}
    assert len(found) == 10
    row = found["rows.csv#3"]
    assert row["prompt"] == "{picture} a thing 2 costs" and row["answer"] == "3.50" and row["price"] == 3.5
    assert row["where"] == "rows.csv, line 4" and row["item"] == "rows.csv#3"
    assert row["columns"] == {"file": "2.png", "name": "thing 2"}, "what settings name, but for the price"
    stored = (tmp_path / "out" / "price" / row["picture"]).read_bytes()
    assert stored == picture(2) and row["sha256"] == hashlib.sha256(stored).hexdigest()
    assert {part: entry["rows"] for part, entry in manifest["parts"].items()} == {
        "train": 6,
        "validation": 2,
        "test": 2,
    }
    assert manifest["dropped"] == [] and manifest["pictures"]["count"] == 10
    assert manifest == json.loads((tmp_path / "out" / rows.FOLDER / "manifest.json").read_text())
    assert "train: 6 rows of 6 items, min $" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["price"], "nothing half-written stays"


def test_the_same_source_gives_the_same_bytes(tmp_path):
    folder = shop(tmp_path / "shop", TEN)
    for name in ("one", "two"):
        prepared(folder, tmp_path / name)
    for path in (tmp_path / "one" / "price").rglob("*.json*"):
        assert path.read_bytes() == (tmp_path / "two" / "price" / path.name).read_bytes()


def test_rows_of_an_item_stay_on_one_side(tmp_path):
    names = [f"thing {number // 2}" for number in range(20)]
    folder = shop(tmp_path / "shop", list(range(1, 21)), names=names)
    columns = {"picture": "file", "price": "cost", "item": "name"}
    manifest = prepared(folder, tmp_path / "out", columns=columns)
    sides = {}
    for part in rows.PARTS:
        for row in rows.of_part(tmp_path / "out", part):
            sides.setdefault(row["item"], set()).add(part)
    assert len(sides) == 10 and all(len(parts) == 1 for parts in sides.values())
    assert manifest["items"] == 10 and manifest["rows"] == 20


def test_equal_pictures_on_both_sides_are_told_with_their_count(tmp_path, capsys):
    folder = shop(tmp_path / "shop", TEN)
    for number in range(10):
        (folder / f"{number}.png").write_bytes(picture(number // 5))
    manifest = prepared(folder, tmp_path / "out")
    assert manifest["pictures"]["count"] == 2
    assert manifest["duplicates_over_the_split"]["pictures"] == 2
    assert "pictures on both sides of the split: 2, of 10 rows" in capsys.readouterr().out


def test_a_table_without_a_header_names_its_pictures_by_row(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "info.txt").write_text("".join(f"{n} {n + 0.5}  {n * 1000}\n" for n in range(1, 11)))
    for number in range(1, 11):
        (folder / f"{number}_front.jpg").write_bytes(picture(number, "JPEG"))
    prepared(
        folder, tmp_path / "out", rows={"files": "info.txt"}, header=["rooms", "baths", "cost"],
        columns={"picture": "{row}_front.jpg", "price": "cost", "item": None}, prompt="{picture} {rooms}, {baths}:",
    )  # fmt: skip
    row = next(row for row in all_rows(tmp_path / "out") if row["id"] == "info.txt#4")
    assert (row["prompt"], row["price"], row["where"]) == ("{picture} 4, 4.5:", 4000, "info.txt, line 4")
    assert (tmp_path / "out" / "price" / row["picture"]).read_bytes() == picture(4, "JPEG")


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "tsv"])
def test_every_kind_of_table_gives_the_same_rows(tmp_path, kind):
    folder = shop(tmp_path / "shop", TEN)
    things = [{"file": f"{n}.png", "name": f"thing {n}", "cost": n + 1.5} for n in range(10)]
    (folder / "rows.csv").unlink()
    path = folder / f"rows.{kind}"
    lines = "".join(json.dumps(thing) + "\n" for thing in things).encode()
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(things), path)
    elif kind == "tsv":
        path.write_text("file\tname\tcost\n" + "".join(f"{t['file']}\t{t['name']}\t{t['cost']}\n" for t in things))
    else:
        path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)
    prepared(folder, tmp_path / "out")
    row = next(row for row in all_rows(tmp_path / "out") if row["id"].endswith("#3"))
    assert (row["prompt"], row["answer"]) == ("{picture} a thing 2 costs", "3.50")
    assert row["where"].endswith({"parquet": "row 3", "tsv": "line 4"}.get(kind, "line 3"))


def test_pictures_may_stand_in_the_table_as_on_the_hub(tmp_path):
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path / "shop"
    folder.mkdir()
    things = [{"file": {"bytes": picture(n), "path": None}, "name": f"t{n}", "cost": n + 1} for n in range(10)]
    parquet.write_table(pyarrow.Table.from_pylist(things), folder / "rows.parquet")
    manifest = prepared(folder, tmp_path / "out")
    assert manifest["pictures"]["count"] == 10
    assert all("file" not in row["columns"] for row in all_rows(tmp_path / "out"))


def test_cards_come_with_their_oracle(tmp_path, capsys):
    manifest = prepared(
        tmp_path, tmp_path / "out", rows={"kind": "cards", "name": None},
        cards={"count": 60, "pixels": 32, "seed": 5}, columns={"picture": "picture", "price": "price", "item": None},
        prompt="{picture}{condition} {pack}:", answer="{price:03}", decimals=0,
    )  # fmt: skip
    found = all_rows(tmp_path / "out")
    assert len(found) == 60 and all(len(row["answer"]) == 3 for row in found)
    assert set(found[0]["columns"]) == {"shape", "colour", "size", "stars", "letter", "condition", "pack"}
    oracle = manifest["parts"]["train"]["oracle_mae"]
    assert oracle["both"] < oracle["picture"] and oracle["both"] < oracle["text"] < oracle["mean"]
    assert manifest["pictures"]["count"] == 60
    assert "rows: cards 60 drawn here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("picture", "prompt", "expected"),
    [
        (
            "picture",
            "{picture} {color}:",
            "price.prompt: there is no column 'color' in the cards (did you mean 'colour'?)",
        ),
        ("{row}.png", "{picture}:", "card 1: picture '1.png': cards are drawn, not read from a file"),
        ("shape", "{picture}:", "card 1: picture 'disc': cards are drawn, not read from a file"),
    ],
)
def test_columns_that_cards_have_not_are_told(tmp_path, picture, prompt, expected):
    told = message(
        tmp_path, tmp_path / "out", rows={"kind": "cards", "name": None},
        cards={"count": 20, "pixels": 32, "seed": 5}, prompt=prompt,
        columns={"picture": picture, "price": "price", "item": None},
    )  # fmt: skip
    assert told.startswith(expected)


BAD = {
    "no price": ("3.png,thing 3,", "rows.csv, line 5: column 'cost': expected a price, found none"),
    "zero": ("3.png,thing 3,0", "rows.csv, line 5: column 'cost': expected a price above 0, found 0"),
    "negative": ("3.png,thing 3,-4", "rows.csv, line 5: column 'cost': expected a price above 0, found -4"),
    "no number": ("3.png,thing 3,free", "rows.csv, line 5: column 'cost': expected a price, found that 'free' is no"),
    "two readings": ('3.png,thing 3,"1,234"', "rows.csv, line 5: column 'cost': expected a price, found that '1,234'"),
    "another currency": ("3.png,thing 3,€ 4", "rows.csv, line 5: column 'cost': expected a price, found that '€ 4' is"),
    "too small": ("3.png,thing 3,0.001", "rows.csv, line 5: column 'cost': 0.001 is 0 with 2 decimals"),
    "no text": ("3.png,,4", "rows.csv, line 5: column 'name' is empty"),
    "no picture named": (",thing 3,4", "rows.csv, line 5: column 'file': expected a picture, found none"),
    "picture missing": ("x.png,thing 3,4", "rows.csv, line 5: picture {folder}/x.png: expected a file, found nothing"),
    "picture is a folder": (".,thing 3,4", "rows.csv, line 5: picture {folder}: cannot be read: Is a directory"),
    "picture is a text": ("rows.csv,a b,4", "rows.csv, line 5: picture {folder}/rows.csv: expected a picture that"),
    "picture is cut": ("cut.png,thing 3,4", "rows.csv, line 5: picture {folder}/cut.png: expected a whole picture,"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_row_is_one_line_with_its_place_or_left_out_and_listed(tmp_path, capsys, what):
    folder = shop(tmp_path / "shop", TEN)
    (folder / "cut.png").write_bytes(picture(3)[:-30])
    lines = (folder / "rows.csv").read_text().splitlines()
    bad, expected = BAD[what]
    (folder / "rows.csv").write_text("\n".join([*lines[:4], bad, *lines[5:]]) + "\n", encoding="utf-8")
    told = message(folder, tmp_path / "out")
    assert told.startswith(expected.format(folder=folder)), told
    assert told.endswith("mend it, or set price.bad_rows: drop to go without")
    manifest = prepared(folder, tmp_path / "dropped", bad_rows="drop")
    assert [problem["where"] for problem in manifest["dropped"]] == ["rows.csv, line 5"]
    assert manifest["rows"] == 9 and len(all_rows(tmp_path / "dropped")) == 9
    assert "dropped: 1 rows (1 × " in capsys.readouterr().out


def test_of_several_bad_rows_the_first_is_told_and_the_number_of_others(tmp_path):
    folder = shop(tmp_path / "shop", ["1", "-2", "free", "3", *TEN])
    told = message(folder, tmp_path / "out")
    assert told.startswith("rows.csv, line 3: ") and "(and 1 more bad rows)" in told


def test_prices_with_signs_and_separators_are_read_where_the_settings_allow(tmp_path):
    folder = shop(
        tmp_path / "shop", ["$1.234", "2.345,50", "3 456", "4'567", "5", "6", "7", "8", "9", "10"], separator=";"
    )
    prepared(folder, tmp_path / "out", delimiter=";", decimal=",")
    found = {row["id"]: row["price"] for row in all_rows(tmp_path / "out")}
    assert [found[f"rows.csv#{n}"] for n in range(1, 5)] == [1234, 2345.5, 3456, 4567]


def test_more_bad_rows_than_good_ones_are_no_data(tmp_path):
    folder = shop(tmp_path / "shop", ["free"] * 6 + ["1"] * 5)
    assert "that is 6 of 11 rows, too many to go without" in message(folder, tmp_path / "out", bad_rows="drop")


def test_a_table_without_rows_is_told(tmp_path):
    assert message(shop(tmp_path / "shop", []), tmp_path / "out").endswith("expected rows, found none")


def test_a_part_without_items_is_told(tmp_path):
    assert "3 items leave none for" in message(
        shop(tmp_path / "shop", TEN[:3]), tmp_path / "out",
        split={"validation_percent": 10, "test_percent": 10, "seed": 1},
    )  # fmt: skip


def test_a_table_named_alone_needs_no_folder_unless_pictures_lie_beside_it(tmp_path):
    folder = shop(tmp_path / "shop", TEN)
    told = message(folder, tmp_path / "out", rows={"name": str(folder / "rows.csv")})
    assert f"set name: {folder} and files: rows.csv" in told


def test_what_may_not_be_passed_on_says_so(tmp_path, capsys):
    manifest = prepared(
        shop(tmp_path / "shop", TEN), tmp_path / "out", rows={"pass_on": False, "licence": "all rights reserved"}
    )
    assert manifest["pass_on"] is False and manifest["licence"] == "all rights reserved"
    assert "licence: all rights reserved; not passed on" in capsys.readouterr().out


# Sources that are not a folder of the user's


def answers(path: str, attempt: int):
    if path == "/page.png":
        return 200, {}, b"<html>sold out</html>"
    number = path.removeprefix("/").removesuffix(".png")
    return (200, {}, picture(int(number))) if number.isdigit() else (404, {}, b"gone")


def test_pictures_behind_addresses_come_with_their_hash_and_dead_links_are_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sources.time, "sleep", lambda seconds: None)
    folder = shop(tmp_path / "shop", TEN)
    with loopback.serve(answers) as (address, _):
        links = [f"{address}/{n}.png" for n in range(8)] + [f"{address}/gone.png", f"{address}/page.png"]
        (folder / "rows.csv").write_text(
            "file,name,cost\n" + "".join(f"{link},thing {n},{n + 1}\n" for n, link in enumerate(links))
        )
        told = message(folder, tmp_path / "refused", rows={"name": str(folder / "rows.csv")})
        assert told.startswith(
            f"rows.csv, line 10: picture {address}/gone.png: expected a file, found the server's answer"
        )
        assert "404" in told and "(and 1 more bad rows)" in told
        manifest = prepared(folder, tmp_path / "out", bad_rows="drop", rows={"name": str(folder / "rows.csv")})
    hashes = {link: hashlib.sha256(picture(n)).hexdigest() for n, link in enumerate(links[:8])}
    assert manifest["pictures"]["by_url"] == hashes
    assert [problem["where"] for problem in manifest["dropped"]] == ["rows.csv, line 10", "rows.csv, line 11"]
    assert "found a web page (21 bytes)" in manifest["dropped"][1]["reason"]
    assert "dropped: 2 rows" in capsys.readouterr().out
    row = next(row for row in all_rows(tmp_path / "out") if row["id"] == "rows.csv#3")
    assert row["url"] == links[2] and row["sha256"] == hashes[links[2]]


def test_a_network_that_is_down_is_no_reason_to_go_without(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "TRIES", 1)
    folder, port = shop(tmp_path / "shop", []), loopback.closed_port()
    (folder / "rows.csv").write_text(
        "file,name,cost\n" + "".join(f"http://127.0.0.1:{port}/{n}.png,a,{n + 1}\n" for n in range(200))
    )
    told = message(folder, tmp_path / "out", bad_rows="drop", rows={"name": str(folder / "rows.csv")})
    assert told.startswith("rows.csv, line 2: picture http://127.0.0.1:") and "so far no row can be used" in told


def test_a_hub_data_set_brings_tables_and_the_pictures_beside_them(tmp_path, monkeypatch):
    name = "me/things"
    table = "file,name,cost\n" + "".join(f"{n}.png,thing {n},{n + 1}\n" for n in range(10))
    contents = {"data/all.csv": table.encode()} | {f"data/{n}.png": picture(n) for n in range(10)}
    asked = []

    def snapshot(source, patterns, repo_type):
        asked.append(patterns)
        folder = tmp_path / "cache"
        for path, content in contents.items():
            if Path(path).match(patterns[0].replace("**/", "")):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
        return folder, "0123abc", "mit"

    monkeypatch.setattr(sources, "_hub", snapshot)
    manifest = prepared(
        tmp_path, tmp_path / "out",
        rows={"kind": "hub", "name": name, "files": "data/*.csv", "pictures": "data/*.png"},
    )  # fmt: skip
    assert asked == [("data/*.csv",), ("data/*.png",)]
    assert manifest["licence"] == "mit" and manifest["source"]["revision"] == "0123abc"
    assert manifest["pictures"]["count"] == 10


def test_a_table_from_elsewhere_reads_no_file_outside_its_source(tmp_path, monkeypatch):
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(1))
    folder = shop(tmp_path / "cache", TEN)
    (folder / "rows.csv").write_text("file,name,cost\n../secret.png,a,1\n")
    monkeypatch.setattr(sources, "_hub", lambda source, patterns, kind: (folder, "0123abc", None))
    told = message(tmp_path, tmp_path / "out", rows={"kind": "hub", "name": "me/things", "files": "rows.csv"})
    assert "picture '../secret.png': expected a file inside the source, found one outside" in told


def test_settings_that_the_task_cannot_use_are_told(tmp_path):
    good = settings(shop(tmp_path / "shop", TEN))
    preparing.check(good)
    good.fetch.text = "a text"
    with pytest.raises(InputError, match=r"fetch\.text: says nothing where task is price"):
        preparing.check(good)
    kept = settings(tmp_path, rows={"pass_on": False})
    with pytest.raises(InputError, match=r"fetch\.remote: null, so `dvc push` would pass on"):
        preparing.check(kept)
    kept.fetch.remote = "kept-here"
    preparing.check(kept)
    kept.quality.texts = ["plays"]
    with pytest.raises(InputError, match=r"quality\.texts: say nothing where task is price"):
        preparing.check(kept)
    kept.price = None
    with pytest.raises(InputError, match=r"price: null, but task is price"):
        preparing.check(kept)
