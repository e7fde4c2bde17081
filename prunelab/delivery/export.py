"""`prunelab export models/s1/magnitude-50 plain/`: a variant as a folder for `from_pretrained`."""

from prunelab.disk import places
from prunelab.models import checkpoint


def write(variant, out) -> str:
    """Write the model in folder `variant`, packed or plain, as the plain folder `out`; how it is loaded.

    `out` is new, or one that was written here, which is replaced. Raises InputError for another.
    """
    places.check_folder(out, variant)  # before a model is loaded
    checkpoint.export(variant, out)
    return f"{out}: AutoModelForCausalLM.from_pretrained({str(out)!r}) loads it"
