"""Pictures of rows, brought from wherever they are and looked at before anything is trained on them."""

import hashlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prunelab.data import sources
from prunelab.errors import InputError, in_one_line
from prunelab.tasks.price.rows import Problem, Row

AT_ONCE = 8  # downloads; addresses of one shop are one server
ENDINGS = {"JPEG": ".jpg"}


def store(rows: list[Row], folder: Path) -> Iterator[tuple[Row, str, str] | Problem]:
    """Put the picture of every row into the new folder `folder`, under the hash of its bytes, so equal ones once.

    Yields (row, file name, sha256), or the Problem of a row whose picture is not there or is none. Bytes stay as they
    come. A file that cannot be stored, as on a full disk, is an OSError.
    """
    folder.mkdir(parents=True)
    known: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix=".pictures-", dir=folder.parent) as scratch:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for row, found in zip(rows, _in_turns(pool, rows, Path(scratch)), strict=True):
                if isinstance(found, str):
                    yield Problem(row.where, found)
                    continue
                sha256 = hashlib.sha256(found).hexdigest()
                if sha256 not in known:
                    try:
                        known[sha256] = f"{sha256[:20]}{ending(found)}"
                    except ValueError as error:
                        yield Problem(row.where, f"picture {_named(row)}: {error}")
                        continue
                    (folder / known[sha256]).write_bytes(found)
                yield row, known[sha256], sha256


def ending(picture: bytes) -> str:
    """The ending of a file with this picture, `.jpg` say. Raises ValueError for bytes that are no whole picture."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures and odd metadata
        try:
            with Image.open(io.BytesIO(picture)) as image:
                image.convert("RGB")  # reads all of it
                form = image.format
        except UnidentifiedImageError:
            found = (
                "nothing" if not picture else "a web page" if b"<html" in picture[:1000].lower() else "something else"
            )
            raise ValueError(f"expected a picture that Pillow reads, found {found} ({len(picture)} bytes)") from None
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise ValueError(f"expected a whole picture, found: {in_one_line(error, 100)}") from None
    return ENDINGS.get(form, f".{form.lower()}")


def _in_turns(pool: ThreadPoolExecutor, rows: list[Row], scratch: Path) -> Iterator[bytes | str]:
    """The bytes of each row's picture, or why there are none, in the order of the rows; not all in memory at once."""
    window = 8 * AT_ONCE
    waiting = [pool.submit(_bytes_of, row, scratch / str(n)) for n, row in enumerate(rows[:window])]
    for n in range(len(rows)):
        yield waiting[n].result()
        waiting[n] = None
        if n + window < len(rows):
            waiting.append(pool.submit(_bytes_of, rows[n + window], scratch / str(n + window)))


def _bytes_of(row: Row, scratch: Path) -> bytes | str:
    if isinstance(row.picture, bytes):
        return row.picture
    if isinstance(row.picture, str):
        try:
            path = sources.download(row.picture, scratch, quiet=True)
        except InputError as error:
            return f"picture {error}"
        found = path.read_bytes()
        path.unlink()
        return found
    try:
        return row.picture.read_bytes()
    except FileNotFoundError:
        return f"picture {row.picture}: expected a file, found nothing there"
    except OSError as error:
        return f"picture {row.picture}: cannot be read: {error.strerror}"


def _named(row: Row) -> str:
    return "in the table" if isinstance(row.picture, bytes) else str(row.picture)
