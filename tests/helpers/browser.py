"""Pages as a browser shows them, once their scripts have run."""

import shutil
import subprocess
import tempfile

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
SECONDS = 30  # of the page's own time, in which requests of its scripts are awaited


def text(address: str) -> str:
    """The document at `address` after its scripts, as HTML."""
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,1200"]
        options += [f"--user-data-dir={profile}", f"--virtual-time-budget={1000 * SECONDS}", "--dump-dom"]
        done = subprocess.run([PROGRAM, *options, address], capture_output=True, text=True, timeout=180, check=True)
    return done.stdout
