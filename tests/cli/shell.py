"""The real command line, as a person meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def evolvent(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder of its own and wait for its end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EVOLVENT_")}
    return subprocess.run(
        [str(Path(sys.executable).parent / "evolvent"), *map(str, arguments)],
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Read what `--json` printed of checks, by name."""
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}
