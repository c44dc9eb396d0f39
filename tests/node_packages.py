"""The tests' node packages, installed from their lock files into a cache, once for each version of the file."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def missing() -> str | None:
    """Return why node tests can't run here, or None."""
    absent = [name for name in ("node", "npm") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)}" if absent else None


def install(folder: Path) -> Path:
    """Install a folder's packages by `npm ci`; return where its scripts can be run.

    Raises CalledProcessError if npm fails.
    """
    lock_file = folder / "package-lock.json"
    digest = hashlib.sha256(lock_file.read_bytes()).hexdigest()
    target = ROOT / ".cache" / "node" / folder.name
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = target / ".installed"
        if not stamp.exists() or stamp.read_text() != digest:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(folder / name, target)
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
            subprocess.run(command, cwd=target, check=True, timeout=300)
            stamp.write_text(digest)
        for script in folder.glob("*.mjs"):
            shutil.copy(script, target)
    return target


if __name__ == "__main__":
    print(install(Path(sys.argv[1]).resolve()))
