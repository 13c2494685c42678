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
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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


def cpu(who: int) -> float:
    """CPU milliseconds of this process, or of the children that it has waited for."""
    usage = resource.getrusage(who)
    return (usage.ru_utime + usage.ru_stime) * 1e3


def cpu_of(pid: int) -> float:
    """CPU milliseconds of another process and of the children that it has waited for (Linux)."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return sum(map(int, ticks)) * 1e3 / os.sysconf("SC_CLK_TCK")


class Warm:
    """A backend and the experiment that it repeats."""

    def __init__(self, folder: Path, tier: SandboxTier, preload: tuple[str, ...]) -> None:
        self._bundle = folder / "task"
        self._bundle.mkdir(exist_ok=True)
        (self._bundle / "evaluate.py").write_text(EVALUATE)
        self.backend = LocalBackend(folder / "work", allow_unsafe=True, preload=preload, tier=tier)
        self._count = 0

    async def once(self) -> float:
        """Evaluate once, and return the milliseconds that it took."""
        self._count += 1
        experiment = Experiment(
            id=f"bench-{self._count}",
            bundle=self._bundle,
            files={"program.py": PROGRAM},
            program=ProgramSpec(functions=("run",)),
            stage=Stage(limits=Limits()),
            metric="score",
            seed=self._count,
        )
        began = time.perf_counter()
        outcome = await self.backend.evaluate(experiment)
        assert isinstance(outcome, Completed), outcome
        return (time.perf_counter() - began) * 1e3

    def cpu(self) -> float:
        """CPU milliseconds of the engineer, the fork server and everything that it forked."""
        (server,) = self.backend._servers.values()  # noqa: SLF001  nobody but a benchmark needs it
        return cpu(resource.RUSAGE_SELF) + cpu_of(server.pid)


class Cold:
    """A fresh interpreter for each evaluation."""

    def __init__(self, folder: Path, preload: tuple[str, ...]) -> None:
        (folder / "program.py").write_text(PROGRAM)
        imports = "\n".join(f"import {module}" for module in preload)
        self._command = [sys.executable, "-c", COLD.format(imports=imports)]
        self._folder = folder

    def once(self) -> float:
        began = time.perf_counter()
        subprocess.run(self._command, cwd=self._folder, check=True, capture_output=True)
        return (time.perf_counter() - began) * 1e3


async def alternate(folder: Path, tier: SandboxTier, preload: tuple[str, ...], blocks: int) -> dict[str, Any]:
    """Time both in turn, ten warm ones for each cold one, so that the machine's other work strikes both alike."""
    warm, cold = Warm(folder, tier, preload), Cold(folder, preload)
    await warm.backend.start()
    await warm.once()  # starts the server
    cold.once()  # fills the page cache
    warms: list[float] = []
    colds: list[float] = []
    warm_cpu = cold_cpu = 0.0
    for _ in range(blocks):
        before = cpu(resource.RUSAGE_CHILDREN)
        colds.append(cold.once())
        cold_cpu += cpu(resource.RUSAGE_CHILDREN) - before
        before = warm.cpu()
        warms += [await warm.once() for _ in range(10)]
        warm_cpu += warm.cpu() - before
    await warm.backend.close()
    return {"warm": warms, "cold": colds, "warm_cpu": warm_cpu / len(warms), "cold_cpu": cold_cpu / len(colds)}


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
    blocks = (2 if "torch" in preload else 5) if quick else 30
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        times = asyncio.run(alternate(Path(name), tier, preload, blocks))
        forks = fork(Path(name), tier, preload, 50 if quick else 500)
    warms, colds = statistics.median(times["warm"]), statistics.median(times["cold"])
    return {
        "preload": preload,
        "warm": spread(times["warm"], "ms") | {"per_minute": 60_000 / warms, "cpu_ms": times["warm_cpu"]},
        "cold": spread(times["cold"], "ms") | {"per_minute": 60_000 / colds, "cpu_ms": times["cold_cpu"]},
        "ratio": colds / warms,
        "ratio_of_minima": min(times["cold"]) / min(times["warm"]),
        "ratio_of_cpu": times["cold_cpu"] / times["warm_cpu"],
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
        ready = result["fork_to_confined"]
        ratios = (result[name] for name in ("ratio", "ratio_of_minima", "ratio_of_cpu"))
        lines.append("+".join(result["preload"]))
        lines += [row(name, result[name]) for name in ("warm", "cold")]
        lines.append("  ratio {:.1f} of medians, {:.1f} of minima, {:.1f} of CPU".format(*ratios))
        confined = " / ".join(f"{ready[at]:.1f}" for at in ("min", "median", "p90", "p99"))
        lines.append(f"  fork to confined {confined} ms (min / median / p90 / p99, n {ready['n']})")
    return "\n".join(lines)


def row(name: str, found: dict[str, Any]) -> str:
    times = " / ".join(f"{found[at]:.1f}" for at in ("min", "median", "p90"))
    rest = f"{found['cpu_ms']:.1f} ms of CPU, {found['per_minute']:.0f} per minute"
    return f"  {name} {times} ms (min / median / p90, n {found['n']}), {rest}"


if __name__ == "__main__":
    main()
