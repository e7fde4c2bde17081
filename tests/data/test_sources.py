"""Bytes from a wheel, a URL, the hub, a path: pinned, whole, or one line that says what was expected and found."""

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from prunelab.data import archives, sources
from prunelab.errors import InputError
from prunelab.study.params import Text
from tests.helpers import loopback

DEFAULTS = ("**/*.txt",)
OTHER_HASH = "0" * 64


def bring(source, folder: Path, repo_type: str = "dataset") -> sources.Brought:
    scratch = folder / "scratch"
    scratch.mkdir()
    return sources.bring(source, scratch, DEFAULTS, repo_type)


def refusal(source, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        bring(source, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """A folder with the wheel `playtexts-1.0`, the only place where pip looks (as pip's own settings allow)."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "playtexts-1.0.dist-info"
    with zipfile.ZipFile(folder / "playtexts-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("playtexts/__init__.py", "raise SystemExit('a wheel of data was imported')\n")
        wheel.writestr("playtexts/plays/comedies/one.md", "# One\n")
        wheel.writestr("playtexts/plays/tragedies/two.md", "# Two\n")
        wheel.writestr("playtexts/readme.md", "not a play")
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: playtexts\nVersion: 1.0\nLicense: MIT\nRequires-Dist: nosuchpackage\n",
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel_source(wheels: Path, **changes) -> Text:
    sha256 = hashlib.sha256((wheels / "playtexts-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    given = {"kind": "wheel", "name": "playtexts==1.0", "sha256": sha256, "files": "playtexts/plays/**/*.md"}
    return Text(**(given | changes))


def test_a_wheel_is_read_as_data_without_its_dependencies(wheels, tmp_path):
    brought = bring(wheel_source(wheels), tmp_path)
    names = [path.relative_to(brought.folder).as_posix() for path in brought.files]
    assert names == ["playtexts/plays/comedies/one.md", "playtexts/plays/tragedies/two.md"]
    assert brought.facts["licence"] == "MIT"
    assert brought.facts["sha256"] == wheel_source(wheels).sha256
    assert brought.facts["bytes"] == (wheels / "playtexts-1.0-py3-none-any.whl").stat().st_size


def test_a_wheel_with_another_hash_is_refused_with_both_hashes(wheels, tmp_path):
    message = refusal(wheel_source(wheels, sha256=OTHER_HASH), tmp_path)
    assert f"playtexts==1.0: expected sha256 {OTHER_HASH}, found {wheel_source(wheels).sha256}" in message


def test_a_wheel_without_a_hash_is_refused_and_the_message_has_the_hash(wheels, tmp_path):
    message = refusal(wheel_source(wheels, sha256=None), tmp_path)
    assert "expected its sha256 in params.yaml" in message
    assert wheel_source(wheels).sha256 in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "playtexts"}, "playtexts: expected a wheel as name==version"),
        ({"name": "playtexts==1.0 --pre"}, "expected a wheel as name==version"),
        ({"name": "playtexts==9.9"}, "playtexts==9.9: expected its wheel from pip, found: Could not find a version"),
        ({"sha256": "abc"}, "expected a sha256 of 64 hex digits in params.yaml, found 'abc'"),
        ({"files": "plays/*.md"}, "expected files that match plays/*.md, found none among 7 files"),
        ({"files": "../*.md"}, "expected a glob inside playtexts==1.0"),
        ({"files": "/etc/*"}, "expected a glob inside playtexts==1.0"),
        ({"revision": "main"}, "revision 'main' belongs to a hub source, found kind: wheel"),
    ],
)
def test_a_wheel_that_cannot_be_had_is_named(wheels, tmp_path, changes, message):
    assert message in refusal(wheel_source(wheels, **changes), tmp_path)


def test_an_unreachable_package_index_is_said_to_be_unreachable(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nothing listens
    message = refusal(Text(kind="wheel", name="playtexts==1.0", sha256=OTHER_HASH), tmp_path)
    assert "the package index could not be reached: check the network" in message
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("content", [b"PK\x03\x04 truncated", b"no zip at all"])
def test_a_wheel_that_is_no_zip_is_refused(wheels, tmp_path, content):
    (wheels / "playtexts-1.0-py3-none-any.whl").write_bytes(content)
    assert "playtexts" in refusal(wheel_source(wheels), tmp_path)


@pytest.fixture
def impatient(monkeypatch):
    """No pauses between tries."""
    monkeypatch.setattr(sources.time, "sleep", lambda seconds: None)


def url_source(address: str, body: bytes, **changes) -> Text:
    return Text(**({"kind": "url", "name": address, "sha256": hashlib.sha256(body).hexdigest()} | changes))


def test_a_url_brings_the_file_with_its_own_name(tmp_path):
    body = "Who's there? ä".encode() * 100_000
    with loopback.serve(lambda path, attempt: (200, {}, body)) as (address, _):
        brought = bring(url_source(f"{address}/texts/hamlet%20one.txt?x=1", body), tmp_path)
    assert [path.name for path in brought.files] == ["hamlet one.txt"]
    assert brought.files[0].read_bytes() == body
    assert brought.facts["bytes"] == len(body)
    assert brought.facts["licence"] is None


def test_a_url_with_another_hash_is_refused_with_both_hashes(tmp_path):
    with loopback.serve(lambda path, attempt: (200, {}, b"other words")) as (address, _):
        message = refusal(url_source(f"{address}/a.txt", b"the words"), tmp_path)
    assert hashlib.sha256(b"the words").hexdigest() in message
    assert f"found {hashlib.sha256(b'other words').hexdigest()} (11 bytes)" in message


def test_a_missing_url_is_asked_for_once(tmp_path):
    with loopback.serve(lambda path, attempt: (404, {}, b"")) as (address, asked):
        message = refusal(url_source(f"{address}/a.txt", b"x"), tmp_path)
        assert asked == ["/a.txt"]
    assert f"{address}/a.txt: expected a file, found the server's answer 404 Not Found" in message


def test_a_server_that_fails_at_first_is_asked_again(tmp_path, impatient):
    answers = {1: (503, {}, b""), 2: (200, {"Content-Length": "100"}, b"half of i"), 3: (200, {}, b"whole")}
    with loopback.serve(lambda path, attempt: answers[attempt]) as (address, asked):
        brought = bring(url_source(f"{address}/a.txt", b"whole"), tmp_path)
        assert len(asked) == 3
    assert brought.files[0].read_bytes() == b"whole"


def test_a_truncated_download_says_how_much_came(tmp_path, impatient):
    with loopback.serve(lambda path, attempt: (200, {"Content-Length": "100"}, b"half of i")) as (address, asked):
        message = refusal(url_source(f"{address}/a.txt", b"x"), tmp_path)
        assert len(asked) == sources.TRIES
    assert "found only 9 of 100 bytes (3 tries)" in message


def test_no_network_is_one_line(tmp_path, impatient):
    message = refusal(url_source("http://127.0.0.1:9/a.txt", b"x"), tmp_path)
    assert "Connection refused" in message
    assert "check the network" in message


@pytest.mark.parametrize("address", ["ftp://host/a.txt", "file:///etc/passwd", "a.txt", "http:///a.txt"])
def test_only_web_addresses_are_urls(tmp_path, address):
    assert "expected an http:// or https:// address" in refusal(url_source(address, b""), tmp_path)


def archive(kind: str) -> bytes:
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("set/a.txt", "words " * 1000)
    else:
        with tarfile.open(fileobj=data, mode="w:gz") as file:
            member = tarfile.TarInfo("set/a.txt")
            member.size = 6000
            file.addfile(member, io.BytesIO(b"words " * 1000))
    return data.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_is_unpacked_and_a_broken_one_is_refused(tmp_path, kind):
    body = archive(kind)
    (tmp_path / f"set.{kind}").write_bytes(body)
    source = Text(kind="path", name=str(tmp_path / f"set.{kind}"))
    brought = bring(source, tmp_path)
    assert [path.name for path in brought.files] == ["a.txt"]
    assert brought.facts["sha256"] == hashlib.sha256(body).hexdigest()
    for broken in (body[: len(body) // 2], b"nothing of the kind", b""):
        (tmp_path / f"set.{kind}").write_bytes(broken)
        with pytest.raises(InputError, match=f"set.{kind}: expected a readable .* archive, found"):
            archives.unpack(tmp_path / f"set.{kind}", tmp_path / "broken")


def test_a_damaged_member_of_an_archive_is_refused(tmp_path):
    body = bytearray(archive("zip"))
    body[45] ^= 0xFF  # inside the compressed words
    (tmp_path / "set.zip").write_bytes(body)
    with pytest.raises(InputError, match=r"set\.zip: expected a readable zip archive"):
        archives.unpack(tmp_path / "set.zip", tmp_path / "out")


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    with tarfile.open(tmp_path / "evil.tar", "w") as file:
        member = tarfile.TarInfo("../outside.txt")
        member.size = 4
        file.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(InputError, match=r"evil\.tar: .* found '\.\./outside\.txt', which would lie outside"):
        archives.unpack(tmp_path / "evil.tar", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr("../outside.txt", "evil")
    with pytest.raises(InputError, match=r"evil\.zip: .* found '\.\./outside\.txt', which would lie outside"):
        archives.unpack(tmp_path / "evil.zip", tmp_path / "out")
    assert not (tmp_path / "outside.txt").exists()


def packed(path: Path, name: str, mode: int) -> None:
    """An archive with a harmless file and a member of a kind (stat.S_IFLNK, …) that leads to /etc/passwd."""
    kinds = {
        stat.S_IFREG: tarfile.REGTYPE, stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFCHR: tarfile.CHRTYPE,
        stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFSOCK: tarfile.LNKTYPE,  # a hard link is a kind of its own to tar
    }  # fmt: skip
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("good.txt", "words")
            member = zipfile.ZipInfo(name)
            member.create_system, member.external_attr = 3, (mode | 0o644) << 16
            file.writestr(member, "/etc/passwd")
    else:
        with tarfile.open(path, "w") as file:
            file.addfile(tarfile.TarInfo("good.txt"))
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kinds[mode], "/etc/passwd"
            file.addfile(member)


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("link.txt", stat.S_IFLNK), ("link.txt", stat.S_IFSOCK), ("null.txt", stat.S_IFCHR), ("pipe.txt", stat.S_IFIFO),
        ("/outside.txt", stat.S_IFREG), ("a/../../outside.txt", stat.S_IFREG), ("..\\outside.txt", stat.S_IFREG),
        ("C:outside.txt", stat.S_IFREG),
    ],
)  # fmt: skip
def test_an_archive_with_a_link_a_device_or_a_way_out_is_refused_whole(tmp_path, suffix, name, mode):
    path = tmp_path / f"set.{suffix}"
    packed(path, name, mode)
    reason = "would lie outside" if mode == stat.S_IFREG else "is a link or device"
    line = refusal(Text(kind="path", name=str(path)), tmp_path)
    assert repr(name) in line and reason in line
    assert not list(tmp_path.rglob("good.txt")), "something of a refused archive was written"


def test_a_folder_has_the_hash_of_its_sha256sum_listing(tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "b" / "c.txt").write_text("two")
    (folder / ".gitignore").write_text("/a.txt")
    (folder / "b" / ".hidden.txt").write_text("no")
    brought = bring(Text(kind="path", name=str(folder)), tmp_path)
    listing = subprocess.run(["sha256sum", "a.txt", "b/c.txt"], cwd=folder, capture_output=True, check=True).stdout
    assert brought.facts["sha256"] == hashlib.sha256(listing).hexdigest()
    assert brought.facts["bytes"] == 6
    with pytest.raises(InputError, match=r"\(2 files\): expected sha256 0{64}, found"):
        sources.bring(Text(kind="path", name=str(folder), sha256=OTHER_HASH), tmp_path, DEFAULTS, "dataset")


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("nothing/here.txt", None, "nothing/here.txt: expected a file or folder, found nothing there"),
        ("a.txt", "*.md", "a.txt: expected a folder or archive for files: *.md, found one file"),
        ("empty", None, "empty: expected files that match **/*.txt, found none among 0 files"),
    ],
)
def test_a_path_that_is_not_what_was_said_is_named(tmp_path, monkeypatch, name, files, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "empty").mkdir()
    assert message in refusal(Text(kind="path", name=name, files=files), tmp_path)


HUB_CODE = """
import json, sys
from pathlib import Path
from prunelab.data import sources
from prunelab.errors import InputError
from prunelab.study.params import Text

for request in json.loads(sys.argv[1]):
    try:
        brought = sources.bring(Text(kind="hub", **request), Path(sys.argv[2]), (), "dataset")
        print([path.relative_to(brought.folder).as_posix() for path in brought.files], json.dumps(brought.facts))
    except InputError as error:
        print("error:", error)
"""


@pytest.fixture
def ask_hub(tmp_path):
    """`ask(address, *requests) -> lines`: in a fresh process, because the client reads the hub's address at import."""

    def ask(address: str, *requests: dict) -> list[str]:
        env = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-c", HUB_CODE, json.dumps(requests), str(tmp_path)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return ask


def test_a_hub_data_set_comes_by_its_files_at_one_commit_and_what_is_missing_is_named(ask_hub):
    contents = {"README.md": b"about", "wiki/test.jsonl": b'{"text": "hello"}\n', "other/x.jsonl": b"{}"}
    wanted = {"name": "org/set", "files": "wiki/*.jsonl"}
    with loopback.serve(loopback.hub("org/set", contents, "cc-by-sa-3.0")) as (address, asked):
        came, *refused = ask_hub(
            address,
            wanted,
            wanted | {"files": None},
            wanted | {"name": "org/none"},
            wanted | {"revision": "nosuch"},
            wanted | {"name": "not an id"},
            wanted | {"files": "*.parquet"},
            wanted | {"sha256": OTHER_HASH},
        )
        assert not any("README" in path or "other" in path for path in asked)
    assert came.startswith("['wiki/test.jsonl']")
    assert f'"revision": "{loopback.COMMIT}"' in came
    assert '"licence": "cc-by-sa-3.0"' in came
    for line, expected in zip(
        refused,
        (
            "error: org/set: expected the hub's data set with `files:` saying which of its files",
            "error: org/none: expected the hub's data set, found none of that name",
            "error: org/set: expected the hub's data set at revision nosuch, found no such revision",
            "error: not an id: expected the hub's data set, found: Repo id must",
            "error: org/set: expected files that match *.parquet, found none among 1 files",
            f"error: org/set (1 files): expected sha256 {OTHER_HASH}, found",
        ),
        strict=True,
    ):
        assert line.startswith(expected)
    # What the hub's own client keeps serves a worker without network.
    offline, unknown = ask_hub("http://127.0.0.1:9", wanted, wanted | {"name": "org/none"})
    assert offline.startswith("['wiki/test.jsonl']")
    assert unknown.startswith("error: org/none: expected the hub's data set, found no way to the hub")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1:9", "no way to the hub and nothing of it in the hub client's cache ([Errno 111] Connection"),
        ("localhost:9", "missing an 'http://' or 'https://' protocol); check the network"),
        ("http://[bad", "the hub's client does not start: Invalid IPv6 URL; check HF_ENDPOINT"),
    ],
)
def test_why_the_hub_is_not_reached_is_told(ask_hub, address, told):
    (line,) = ask_hub(address, {"name": "org/set", "files": "*.txt"})
    assert told in line


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>a portal</html>", "found an answer that is no hub's (JSONDecodeError"),
        (200, b"{}", "found an answer that is no hub's (KeyError"),
        (403, b"<html>", "403 Forbidden"),
    ],
)
def test_a_server_that_is_no_hub_is_told(ask_hub, status, body, told):
    with loopback.serve(lambda path, attempt: (status, {}, body)) as (address, _):
        (line,) = ask_hub(address, {"name": "org/set", "files": "*.txt"})
    assert line.startswith("error: org/set: expected the hub's data set") and told in line


def test_a_cache_that_cannot_be_written_is_told(ask_hub, tmp_path):
    (tmp_path / "home").write_text("a file in its place")
    with loopback.serve(loopback.hub("org/set", {"a.txt": b"words"}, "mit")) as (address, _):
        (line,) = ask_hub(address, {"name": "org/set", "files": "*.txt"})
    assert "found that it cannot be stored" in line and "HF_HOME says where it goes" in line


@pytest.mark.parametrize(
    ("name", "told"),
    [("http://[bad", "Invalid IPv6 URL"), ("http://127.0.0.1:9/ü.txt", "expected an address in ASCII")],
)
def test_an_address_that_cannot_be_asked_is_named(tmp_path, name, told):
    assert told in refusal(Text(kind="url", name=name, sha256=OTHER_HASH), tmp_path)


def test_a_name_that_is_no_utf_8_is_hashed_as_sha256sum_prints_it(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"one")
    brought = bring(Text(kind="path", name=str(folder)), tmp_path)
    line = f"{hashlib.sha256(b'one').hexdigest()}  ".encode() + b"caf\xe9.txt\n"
    assert brought.facts["sha256"] == hashlib.sha256(line).hexdigest()


def test_a_glob_that_is_none_is_told(tmp_path):
    with pytest.raises(InputError, match=r"files: .*expected a glob such as texts/\*\*/\*\.txt"):
        archives.choose(tmp_path, ("**.txt/**a",), "texts")


@pytest.mark.parametrize(
    ("headers", "licence"),
    [
        ("License-Expression: BSD-3-Clause\nClassifier: License :: OSI Approved :: MIT License", "BSD-3-Clause"),
        ("Classifier: Topic :: Internet\nClassifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("Classifier: Topic :: Internet", None),
    ],
)
def test_a_wheel_that_says_its_licence_in_a_classifier_alone_is_taken_by_its_word(tmp_path, headers, licence):
    metadata = tmp_path / "texts-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.4\nName: texts\n{headers}\n\nwords\n")
    assert archives.wheel_licence(tmp_path) == licence
