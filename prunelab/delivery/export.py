"""`prunelab export models/s1/magnitude-50 plain/`: a variant as a folder for `from_pretrained`."""

from prunelab.disk import places
from prunelab.errors import InputError
from prunelab.models import checkpoint, composites, loading
from prunelab.quantised import files, torchao


def write(variant, out) -> str:
    """Write the model in folder `variant` as the plain folder `out`, one in int8 in torchao's format; how it is loaded.

    `out` is new, or one that was written here, which is replaced. Raises InputError for another.
    """
    places.check_folder(out, variant)  # before a model is loaded
    if files.is_quantised(variant):
        try:
            torchao.export(variant, out)
        except InputError as error:
            way = "copy its folder as it is: after `import prunelab.hf` from_pretrained loads that"
            raise InputError(f"{error}; {way}") from None
        return f"{_told(out)} where torchao is installed"
    checkpoint.export(variant, out)
    return _told(out)


def _told(out) -> str:
    return f"{out}: {composites.auto_class(loading.config_of(out)).__name__}.from_pretrained({str(out)!r}) loads it"
