"""prunelab: track how every weight evolves, prune by many methods, measure what that costs and buys."""

import logging
import sys

from prunelab import interpreter, moved

if sys.argv[:1] == ["-m"]:  # so it is while Python looks for the module of `python -m prunelab.…`: a command of ours
    interpreter.require()
    moved.tell()

# transformers imports torchao where it is installed, which then reports every kernel of other machines that it could
# not load, and how torch's pytree registry has changed. No news, three lines at the start of every stage.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def load(path, **options):
    """The model in folder `path`, plain, packed or quantised; see `prunelab.quantised.opening.load`."""
    # Imported here because most stages never build a model, and importing one costs seconds.
    from prunelab.quantised import opening

    return opening.load(path, **options)
