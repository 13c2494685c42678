"""What an iteration of OpenEvolve 0.4.0 costs with an instant evaluator and a stub model server, in its own venv."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

VERSION = "0.4.0"
CACHE = Path(tempfile.gettempdir()) / f"evolvent-bench-openevolve-{VERSION}"

PROGRAM = "# EVOLVE-BLOCK-START\ndef value():\n    return 0\n# EVOLVE-BLOCK-END\n"
EVALUATOR = "def evaluate(path):\n    return {'combined_score': float(len(open(path).read()))}\n"
CONFIG = """max_iterations: {iterations}
checkpoint_interval: 100000
log_level: WARNING
diff_based_evolution: false
llm:
  api_base: {base}
  api_key: none
  models: [{{name: stub, weight: 1.0}}]
evaluator: {{parallel_evaluations: 1, cascade_evaluation: false, timeout: 60}}
database: {{log_prompts: false}}
"""
DRIVER = """
import asyncio, sys, time
from openevolve import OpenEvolve
from openevolve.config import load_config
async def main():
    evolve = OpenEvolve("program.py", "evaluator.py", config=load_config("config.yaml"), output_dir="out")
    began = time.perf_counter()
    await evolve.run(iterations={iterations})
    print("SECONDS", time.perf_counter() - began)
if __name__ == "__main__":
    asyncio.run(main())
"""


class _Stub(BaseHTTPRequestHandler):
    """Answers every chat completion with a full rewrite that returns another number each time."""

    protocol_version = "HTTP/1.1"
    answered = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).answered += 1
        text = f"```python\n{PROGRAM.replace('return 0', f'return {self.answered}')}```"
        message = {"role": "assistant", "content": text}
        body = json.dumps(
            {
                "id": "stub",
                "object": "chat.completion",
                "created": 0,
                "model": "stub",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing for each request."""


@contextmanager
def _server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def _python() -> Path:
    """Make the peer's venv once."""
    python = CACHE / "bin" / "python"
    if not (CACHE / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(CACHE)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"openevolve=={VERSION}"], check=True)
        (CACHE / "ready").touch()
    return python


def measure(iterations: int) -> dict[str, Any]:
    """Run so many iterations and time them, start-up left out.

    Raises:
        RuntimeError: it did not run to its end; the message holds the end of what it printed.
    """
    python = _python()
    with _server() as base, tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        (where / "program.py").write_text(PROGRAM)
        (where / "evaluator.py").write_text(EVALUATOR)
        (where / "config.yaml").write_text(CONFIG.format(iterations=iterations, base=base))
        (where / "drive.py").write_text(DRIVER.format(iterations=iterations))
        done = subprocess.run([str(python), "drive.py"], cwd=where, capture_output=True, text=True, check=False)
    found = re.search(r"SECONDS ([\d.]+)", done.stdout)
    if found is None:
        raise RuntimeError(f"OpenEvolve did not finish: {(done.stdout + done.stderr)[-2000:]}")
    seconds = float(found[1])
    return {"version": VERSION, "iterations": iterations, "ms_per_iteration": 1000 * seconds / iterations}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 200)))
