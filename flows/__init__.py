"""What runs a study: plain DVC (`make study`) or Prefect."""

import prunelab  # noqa: F401  (it tells a Python that lacks what a study needs)
