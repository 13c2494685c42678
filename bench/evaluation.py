"""What an evaluation costs: a warm, confining fork server against a cold interpreter without confinement.

    python bench/evaluation.py [--quick] [--json]

Three things are measured, for each set of preloaded modules:

- `warm`: `LocalBackend.evaluate`, from the call to the outcome: an evaluator and a candidate are forked, confined,
  talk to each other, and are removed. One at a time.
- `cold`: a fresh interpreter that imports the same modules and runs the same program in itself, as frameworks do
  that start a process for each evaluation. No confinement, no second process.
- `fork`: inside a fork server, from just before `fork` to the moment that the child is confined.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evolvent_engineer import tiers
from evolvent_engineer.backend import Completed, Experiment
from evolvent_engineer.local import LocalBackend
from evolvent_schemas.values import Limits, ProgramSpec, SandboxTier, Stage

PROGRAM = "import numpy as np\ndef run(n):\n    return np.linspace(0.0, 1.0, n)\n"
EVALUATE = """
from evolvent.evaluation import array
def evaluate(candidate, settings, seed):
    return {"score": float(array(candidate.call("run", 100), shape=(100,)).sum())}
"""
COLD = "{imports}\nscope = {{}}\nexec(open('program.py').read(), scope)\nprint(float(scope['run'](100).sum()))\n"
FORK = """
import os, sys, json, time, importlib
from evolvent_engineer.confinement import Confinement, Settings, Spec
from evolvent_engineer.cgroups import Cgroups
settings, folder, count = Settings(**json.loads(sys.argv[1])), sys.argv[2], int(sys.argv[3])
for module in settings.preload:
    importlib.import_module(module)
groups = Cgroups() if settings.tier == "T1" else None
confinement = Confinement(settings)
for number in range(count):
    group = groups.create(str(number)) if groups else None
    if group:
        group.limit(memory=2**30, processes=1)
    user = 0x70000000 if json.loads(sys.argv[4]) else None
    spec = Spec(str(number), "candidate", folder, None, group.doors if group else (), user, 2**30, 10.0, 0, 2**20, 100)
    read, write = os.pipe()
    began = time.perf_counter()
    pid = confinement.fork()
    if pid == 0:
        confinement.enter(spec)
        os.write(write, str(time.perf_counter()).encode())
        os._exit(0)
    ready = float(os.read(read, 100))
    os.waitpid(pid, 0)
    print((ready - began) * 1e3, (time.perf_counter() - began) * 1e3)
    os.close(read), os.close(write)
    if group:
        group.remove()
if groups:
    groups.close()
"""
SETS = (("numpy",), ("numpy", "scipy.optimize"), ("torch",))


def spread(values: Sequence[float], unit: str) -> dict[str, Any]:
    ordered = sorted(values)
    at = {name: ordered[min(len(ordered) - 1, int(len(ordered) * p))] for name, p in (("p90", 0.9), ("p99", 0.99))}
    return {"n": len(ordered), "unit": unit, "min": ordered[0], "median": statistics.median(ordered), **at}


def installed(modules: Sequence[str]) -> bool:
    return all(importlib.util.find_spec(module.partition(".")[0]) for module in modules)


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


async def warm(folder: Path, tier: SandboxTier, preload: tuple[str, ...], count: int) -> list[float]:
    """Time whole evaluations, in milliseconds."""
    bundle = folder / "task"
    bundle.mkdir(exist_ok=True)
    (bundle / "evaluate.py").write_text(EVALUATE)
    backend = LocalBackend(folder / "work", allow_unsafe=True, preload=preload, tier=tier)
    await backend.start()
    times = []
    for number in range(count + 1):
        experiment = Experiment(
            id=f"bench-{number}",
            bundle=bundle,
            files={"program.py": PROGRAM},
            program=ProgramSpec(functions=("run",)),
            stage=Stage(limits=Limits()),
            metric="score",
            seed=number,
        )
        began = time.perf_counter()
        outcome = await backend.evaluate(experiment)
        times.append((time.perf_counter() - began) * 1e3)
        assert isinstance(outcome, Completed), outcome
    await backend.close()
    return times[1:]  # the first one waits for the server


def cold(folder: Path, preload: tuple[str, ...], count: int) -> list[float]:
    """Time fresh interpreters, in milliseconds, after one that fills the page cache."""
    (folder / "program.py").write_text(PROGRAM)
    imports = "\n".join(f"import {module}" for module in preload)
    command = [sys.executable, "-c", COLD.format(imports=imports)]
    run = lambda: subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: E731
    return [timed(run) for _ in range(count + 1)][1:]


def fork(folder: Path, tier: SandboxTier, preload: tuple[str, ...], count: int) -> list[tuple[float, float]]:
    """Time fork to confined and fork to reaped, in milliseconds."""
    root = folder / "root"
    root.mkdir(exist_ok=True)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True, mode=0o777)
    settings = {
        "tier": tier,
        "profile": "eager",
        "preload": preload,
        "readable": tiers.system(),
        "root": str(root),
    }
    stranger = os.geteuid() == 0 and tiers.strangers_may_read(tier, scratch)
    command = [sys.executable, "-c", FORK, json.dumps(settings), str(scratch), str(count), json.dumps(stranger)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(float(ready), float(reaped)) for ready, reaped in rows]


def compare(preload: tuple[str, ...], tier: SandboxTier, *, quick: bool) -> dict[str, Any]:
    heavy = "torch" in preload
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        colds = cold(Path(name), preload, (3 if heavy else 8) if quick else 20)
        warms = asyncio.run(warm(Path(name), tier, preload, 30 if quick else 300))
        forks = fork(Path(name), tier, preload, 50 if quick else 500)
    ratio = statistics.median(colds) / statistics.median(warms)
    return {
        "preload": preload,
        "warm": spread(warms, "ms") | {"per_minute": 60_000 / statistics.median(warms)},
        "cold": spread(colds, "ms") | {"per_minute": 60_000 / statistics.median(colds)},
        "ratio": ratio,
        "fork_to_confined": spread([ready for ready, _ in forks], "ms"),
        "fork_to_reaped": spread([reaped for _, reaped in forks], "ms"),
    }


def machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; under a minute")
    options = parser.parse_args()
    tier = tiers.probe().tier
    results = [compare(modules, tier, quick=options.quick) for modules in SETS if installed(modules)]
    report = {
        "compared": "warm confining fork server against a cold unconfined interpreter, milliseconds per evaluation",
        "tier": tier,
        "machine": machine(),
        "results": results,
    }
    print(json.dumps(report, indent=2) if options.json else table(report))


def table(report: dict[str, Any]) -> str:
    lines = [f"{report['compared']}; tier {report['tier']}; {report['machine']}"]
    for result in report["results"]:
        warms, colds, forks = result["warm"], result["cold"], result["fork_to_confined"]
        lines.append(
            f"{'+'.join(result['preload']):22} warm {warms['median']:7.1f} (p90 {warms['p90']:.1f})"
            f"  cold {colds['median']:8.1f} (p90 {colds['p90']:.1f})  ratio {result['ratio']:6.1f}"
            f"  {warms['per_minute']:.0f} against {colds['per_minute']:.0f} per minute"
            f"  fork to confined {forks['min']:.1f}/{forks['median']:.1f}/{forks['p90']:.1f}/{forks['p99']:.1f}"
            " (min/median/p90/p99)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
