"""What hostile programs achieve in each sandbox tier, and that nothing of them stays."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from evolvent_engineer.backend import Completed, Failed, Outcome
from tests.engineer.laboratory import HEALTHY, RETURNED, Laboratory

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTAINED = "contained"
SUCCEEDS = "succeeds"
ANYTHING = "anything"
"""T3 is no boundary: what happens depends on the machine, and only that the backend survives is promised."""
COMPILE = {"profile": "compile"}


@dataclass(frozen=True)
class Attack:
    """A program whose `run(target)` returns 1 if it got what it wanted, and the outcome to expect of each tier."""

    program: str
    t1: str
    t2: str
    t3: str
    limits: dict[str, Any] = field(default_factory=dict)
    stage: dict[str, Any] = field(default_factory=dict)
    evaluate: str = RETURNED

    def expected(self, tier: str) -> str:
        return {"T1": self.t1, "T2": self.t2, "T3": self.t3}[tier]


def tries(body: str, t3: str = ANYTHING, **options: Any) -> Attack:
    """An attack that both boundaries contain: `body` raises OSError, or falls through when it succeeds."""
    indented = "\n".join(f"        {line}" for line in body.strip().splitlines())
    program = f"import os, socket\nfrom pathlib import Path\ndef run(target):\n    try:\n{indented}\n"
    program += "    except OSError:\n        return 0.0\n    return 1.0\n"
    return Attack(program, CONTAINED, CONTAINED, t3, **options)


def everywhere(program: str, outcome: str, **options: Any) -> Attack:
    return Attack(program, outcome, outcome, outcome, **options)


def calls(*arguments: str) -> Attack:
    """A raw system call (x86-64 and arm64 numbers) that must be refused."""
    x86, arm, *rest = arguments
    program = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def run(target):
    number = {x86} if os.uname().machine == "x86_64" else {arm}
    return float(libc.syscall(number, {", ".join(rest)}) != -1)
"""
    return Attack(program, CONTAINED, CONTAINED, ANYTHING)


NETWORK = {
    "tcp": tries("socket.create_connection(('127.0.0.1', int(target.split()[0])), 2)", SUCCEEDS),
    "udp": tries(
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', int(target.split()[0])))", SUCCEEDS
    ),
    "unix socket": tries("socket.socket(socket.AF_UNIX).connect(target.split()[1])", SUCCEEDS),
    "abstract socket": tries("socket.socket(socket.AF_UNIX).connect(chr(0) + target.split()[2])", SUCCEEDS),
}
READING = {
    "home": tries("Path(target.split()[3]).read_text()"),
    "held-out data": tries("Path(target.split()[4]).read_text()"),
    "the engineer's environment": tries("Path(f'/proc/{target.split()[5]}/environ').read_bytes()"),
    "the shadow file": tries("Path('/etc/shadow').read_text()"),
    "another run": tries("next(p for p in Path(target.split()[6]).iterdir() if p.name != Path.cwd().name)"),
    "its own environment": everywhere(
        "import os\ndef run(target):\n    return float('SECRET' in os.environ or len(os.environ) > 6)", CONTAINED
    ),
    "inherited descriptors": everywhere(
        "import os\ndef run(target):\n    return float(any(map(held, range(4, 256))))\n"
        "def held(n):\n    try:\n        os.fstat(n)\n    except OSError:\n        return False\n    return True",
        CONTAINED,
    ),
}
WRITING = {
    "home": tries("Path(target.split()[3]).write_text('x')"),
    "the interpreter": tries("import numpy\nPath(numpy.__file__).with_name('evil.py').write_text('x')"),
    "modes of files it may read": tries("import numpy\nos.chmod(numpy.__file__, 0o644)"),
    "kernel settings": tries("Path('/proc/sys/kernel/core_pattern').open('w').close()"),
    "its own oom score": Attack(
        "def run(target):\n    open('/proc/self/oom_score_adj', 'w').write('1000')\n    return 0.0",
        "crashed", "crashed", ANYTHING,
    ),
}  # fmt: skip
PROCESSES = {
    "fork bomb": everywhere(
        "import os, time\ndef run(target):\n    for _ in range(100):\n        if os.fork() == 0:\n"
        "            time.sleep(60)\n    time.sleep(60)",
        "process_limit",
    ),
    "fork bomb where forks are allowed": everywhere(
        "import os, time\ndef run(target):\n    for _ in range(100):\n        if os.fork() == 0:\n"
        "            time.sleep(60)\n    time.sleep(60)",
        "process_limit", stage=COMPILE, limits={"processes": 8},
    ),
    "threads": everywhere(
        "import threading, time\ndef run(target):\n    for _ in range(100):\n"
        "        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n    time.sleep(60)",
        "process_limit",
    ),
    "executing": tries("os.execv('/bin/true', ['true'])", "crashed"),
    "executing what it wrote": tries(
        "import shutil, subprocess\nshutil.copyfile('/bin/true', 'evil')\nos.chmod('evil', 0o700)\n"
        "subprocess.run(['./evil'], check=True)",
        t3=ANYTHING,
    ),
    "double-forked daemon": Attack(
        "import os, time\ndef run(target):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork():\n"
        "            os._exit(0)\n        time.sleep(60)\n        os._exit(0)\n    os.wait()\n    return 0.0",
        CONTAINED, CONTAINED, CONTAINED, stage=COMPILE, limits={"processes": 4},
    ),
    "signal to the engineer": tries("os.kill(int(target.split()[5]), 0)"),
    "signal to the engineer where forks are allowed": tries(
        "os.kill(int(target.split()[5]), 0)", stage=COMPILE, limits={"processes": 4}
    ),
    "exit": everywhere("import os\ndef run(target):\n    os._exit(0)", "crashed"),
    "system exit": everywhere("def run(target):\n    raise SystemExit(0)", "crashed"),
    "segmentation fault": everywhere("import ctypes\ndef run(target):\n    ctypes.string_at(0)", "crashed"),
    "endless loop": everywhere("def run(target):\n    while True: pass", "cpu_limit", limits={"cpu_seconds": 0.3}),
    "endless loop that ignores signals": everywhere(
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\ndef run(target):\n    while True: pass",
        "cpu_limit", limits={"cpu_seconds": 0.3},
    ),
    "endless import": everywhere("while True: pass\ndef run(target): ...", "cpu_limit", limits={"cpu_seconds": 0.3}),
    "sleeping through the budget": everywhere(
        "import time\ndef run(target):\n    time.sleep(60)", "wall_limit", limits={"wall_seconds": 0.5}
    ),
}  # fmt: skip
RESOURCES = {
    "memory in one process": everywhere(
        "def run(target):\n    return len([bytes(2**24) + b'x' for _ in range(180)])", "memory_limit"
    ),
    "shared memory": everywhere(
        "import mmap, time\ndef run(target):\n    held = [mmap.mmap(-1, 2**24) for _ in range(60)]\n"
        "    for each in held:\n        each.write(bytes(2**24))\n    time.sleep(1)",
        "memory_limit",
    ),
    "memory in many processes": everywhere(
        "import os, time\ndef run(target):\n    for _ in range(6):\n        if os.fork() == 0:\n"
        "            held = bytes(2**27) + b'x'\n            time.sleep(5)\n            os._exit(0)\n"
        "    time.sleep(2)\n    return 0.0",
        "memory_limit", stage=COMPILE, limits={"processes": 8},
    ),
    "filled disk, one file": everywhere(
        "def run(target):\n    open('big', 'wb').write(bytes(2**26))", "disk_limit"
    ),
    "filled disk, many files": everywhere(
        "def run(target):\n    for n in range(12):\n        open(f'{n}', 'wb').write(bytes(2**22))\n    return 0.0",
        "disk_limit",
    ),
    "forty thousand files": everywhere(
        "def run(target):\n    for n in range(40000):\n        open(f'{n}', 'wb').close()\n    return 0.0", "file_limit"
    ),
    "a gigabyte of output": everywhere(
        "def run(target):\n    for _ in range(2**10):\n        print('x' * 2**20)\n    return 0.0", "output_limit"
    ),
}  # fmt: skip
KERNEL = {
    "mount": calls("165", "40", "b'none', b'/tmp', b'tmpfs', 0, None"),
    "user namespace": calls("272", "97", "0x10000000"),
    "mount namespace": calls("272", "97", "0x20000"),
    "ptrace": calls("101", "117", "16, 1, None, None"),
    "bpf": calls("321", "280", "0, None, 0"),
    "io_uring": calls("425", "425", "8, ctypes.create_string_buffer(120)"),
    "keyring": calls("250", "219", "0, -3, 1, 0, 0"),
    "memory file": calls("319", "279", "b'x', 0"),
    "shared memory segment": calls("29", "194", "0, 4096, 0o1600"),
    "chroot": calls("161", "51", "b'.'"),
    "becoming root": calls("105", "146", "0"),
}
TRUE_AREA = """
import numpy as np
from evolvent.evaluation import Invalid, array
def evaluate(candidate, settings, seed):
    side = array(candidate.call("run", None), shape=(1,))[0]
    if side > 1:
        raise Invalid(f"the side is {side}")
    return {"score": float(side * side)}
"""
UNCHECKED = """
def evaluate(candidate, settings, seed):
    return {"score": float(candidate.call("run", None))}
"""
HONESTY = {
    "replaced functions of the evaluator": everywhere(
        "import builtins, sys\nimport numpy as np\n"
        "for name in ('evolvent.evaluation', 'evolvent_engineer.evaluator'):\n    module = sys.modules[name]\n"
        "    module.Invalid = module.array = module._measured = lambda *a, **k: 999.0\n"
        "builtins.float = lambda *a: 999.0\nnp.isfinite = lambda *a: 999\n"
        "def run(target):\n    return np.array([0.0])",
        CONTAINED, evaluate=TRUE_AREA,
    ),
    "result files": everywhere(
        "import json\nimport numpy as np\ndef run(target):\n"
        "    for name in ('result.json', 'metrics.json', 'score.txt', 'evaluate.py'):\n"
        "        open(name, 'w').write(json.dumps({'score': 999, 'completed': {'score': 999}}))\n"
        "    print('score: 999')\n    return np.array([0.0])",
        CONTAINED, evaluate=TRUE_AREA,
    ),
    "reported instead of recomputed": everywhere(
        "def run(target):\n    return {'side': [0.5], 'score': 999.0}", "invalid", evaluate=TRUE_AREA
    ),
    "too good an answer": everywhere(
        "import numpy as np\ndef run(target):\n    return np.array([1.0000001])", "invalid", evaluate=TRUE_AREA
    ),
    "wrong shape": everywhere("def run(target):\n    return [[1.0, 0.0]]", "invalid", evaluate=TRUE_AREA),
    "ragged lists": everywhere("def run(target):\n    return [[1.0], [1.0, 2.0]]", "invalid", evaluate=TRUE_AREA),
    "text": everywhere("def run(target):\n    return ['1.0']", "invalid", evaluate=TRUE_AREA),
    "NaN in the answer": everywhere(
        "def run(target):\n    return [float('nan')]", "invalid", evaluate=TRUE_AREA
    ),
    "NaN as the score": everywhere("def run(target):\n    return float('nan')", "non_finite", evaluate=UNCHECKED),
    "infinity as the score": everywhere("def run(target):\n    return float('inf')", "non_finite", evaluate=UNCHECKED),
    "lying object": everywhere(
        "class Liar:\n    def __float__(self): return 999.0\n    def __array__(self, *a, **k): return [999.0]\n"
        "    def __eq__(self, other): return True\ndef run(target):\n    return Liar()",
        "protocol",
    ),
    "array of objects": everywhere(
        "import numpy as np\ndef run(target):\n    return np.array([object()])", "protocol"
    ),
    "pickle": everywhere(
        "import msgpack\nfrom evolvent_engineer import wire\n"
        "wire._extension = lambda item, buffers: msgpack.ExtType(5, b'cos\\nsystem\\n')\n"
        "def run(target):\n    return object()",
        "protocol",
    ),
    "garbage on the channel": everywhere(
        "import os\ndef run(target):\n    os.write(3, bytes(range(255)))\n    return 0.0", "protocol"
    ),
    "a frame of a terabyte": everywhere(
        "import os, struct\ndef run(target):\n    os.write(3, struct.pack('<IQ', 100, 2**40))\n    return 0.0",
        "protocol",
    ),
    "a frame that never ends": everywhere(
        "import os, struct, time\ndef run(target):\n    os.write(3, struct.pack('<IQ', 100, 0))\n    time.sleep(60)",
        "wall_limit", limits={"wall_seconds": 0.5},
    ),
    "a thousand nested lists": everywhere(
        "import os, struct, time\ndef run(target):\n"
        "    os.write(3, struct.pack('<IQ', 100000, 0) + b'\\x91' * 100000)\n    time.sleep(60)",
        "protocol",
    ),
    "a failure that is the evaluator's": everywhere(
        "import os\nfrom evolvent_engineer import wire, candidate\ndef run(target):\n"
        "    candidate._failure = lambda *a: {'failed': ['evaluator_crashed', 'not me']}\n    1 / 0",
        "protocol",
    ),
}  # fmt: skip
TRAINING = """
import numpy as np
from evolvent.evaluation import array
def evaluate(candidate, settings, seed):
    with candidate.sandbox() as first:
        weights = first.call("train", settings["target"])
    with candidate.sandbox() as second:
        return {"score": float(array(second.call("score", weights), shape=()))}
"""
KEPT = [Path("/tmp/evolvent-kept"), Path("/dev/shm/evolvent-kept"), Path("/var/tmp/evolvent-kept")]
"""What an attack leaves outside where there is no boundary."""
_SCORE = "\ndef score(weights):\n    return 0.0\n"
GRANT = {"kind": "training", "parameters": 10_000}
TRAINED = {
    "a larger model": everywhere(
        "import numpy as np\ndef train(target):\n    return np.zeros(2000)" + _SCORE, "parameter_limit"
    ),
    "a model in text": everywhere("def train(target):\n    return 'x' * 20000" + _SCORE, "parameter_limit"),
    "a model in shapes": everywhere(
        "import numpy as np\ndef train(target):\n    return [np.zeros((n, 0)) for n in range(2000)]" + _SCORE,
        "parameter_limit",
    ),
    "a model in names": everywhere(
        "def train(target):\n    return {f'{n:0100}': None for n in range(200)}" + _SCORE, "parameter_limit"
    ),
    "answers smuggled in the parameters": Attack(
        "import numpy as np\nfrom pathlib import Path\ndef train(target):\n    try:\n"
        "        return np.frombuffer(Path(target.split()[4]).read_bytes(), 'u1')\n    except OSError:\n"
        "        return np.zeros(0)\ndef score(weights):\n    return float(len(weights) > 0)",
        CONTAINED, CONTAINED, ANYTHING,
    ),
    "state kept in memory": everywhere(
        "kept = []\ndef train(target):\n    kept.append(1)\ndef score(weights):\n    return float(len(kept))", CONTAINED
    ),
    "state kept in files": Attack(
        "from pathlib import Path\nimport tempfile\n"
        "PLACES = [Path('kept'), Path.home() / 'kept', Path(tempfile.gettempdir()) / 'kept',\n"
        "          Path('/tmp/evolvent-kept'), Path('/dev/shm/evolvent-kept'), Path('/var/tmp/evolvent-kept')]\n"
        "def train(target):\n    for place in PLACES:\n        try:\n            place.write_text('x')\n"
        "        except OSError:\n            pass\n"
        "def score(weights):\n    return float(any(map(holds, PLACES)))\n"
        "def holds(place):\n    try:\n        return place.read_text() == 'x'\n"
        "    except OSError:\n        return False",
        CONTAINED, CONTAINED, ANYTHING,
    ),
}  # fmt: skip
GROUPS = {
    "network": NETWORK, "reading": READING, "writing": WRITING, "processes": PROCESSES, "resources": RESOURCES,
    "kernel": KERNEL, "honesty": HONESTY,
}  # fmt: skip
ATTACKS = {f"{group}: {name}": attack for group, attacks in GROUPS.items() for name, attack in attacks.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Open what attacks aim at: listeners of every kind, a readable secret, the engineer itself."""
    folder = tmp_path_factory.mktemp("home")
    folder.chmod(0o755)
    (folder / "secret").write_text("the key")
    abstract = f"evolvent-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "listener"))
        unix.listen()
        with socket.socket(socket.AF_UNIX) as hidden:
            hidden.bind(f"\0{abstract}")
            hidden.listen()
            port = tcp.getsockname()[1]
            try:
                yield f"{port} {folder}/listener {abstract} {folder}/secret {{heldout}} {os.getpid()} {{work}}"
            finally:
                for place in KEPT:
                    place.unlink(missing_ok=True)


def named(outcome: Outcome) -> str:
    match outcome:
        case Completed(score=0.0):
            return CONTAINED
        case Completed():
            return SUCCEEDS
        case Failed(reason=reason):
            return reason


def secret_of(target: str) -> tuple[str, int]:
    path = Path(target.split()[3])
    return path.read_text(), path.stat().st_mtime_ns


async def attack(laboratory: Laboratory, attack: Attack, target: str, functions: tuple[str, ...] = ("run",)) -> Outcome:
    aimed = target.format(heldout=laboratory.folder / "task-0" / "heldout.txt", work=laboratory.work)
    options = {"limits": attack.limits, "stage": attack.stage, "target": aimed, "functions": functions}
    return await asyncio.wait_for(laboratory.run(attack.program, attack.evaluate, **options), 30)


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_ends_as_its_tier_says(laboratory: Laboratory, name: str, target: str) -> None:
    outcome = await attack(laboratory, ATTACKS[name], target)

    if (expected := ATTACKS[name].expected(laboratory.tier)) != ANYTHING:
        assert expected == named(outcome), outcome
    assert [] == laboratory.left_behind()


@pytest.mark.parametrize("name", TRAINED)
async def test_training_cannot_carry_more_than_parameters(laboratory: Laboratory, name: str, target: str) -> None:
    cheat = TRAINED[name]
    chosen = Attack(cheat.program, cheat.t1, cheat.t2, cheat.t3, stage=GRANT, evaluate=TRAINING)
    outcome = await attack(laboratory, chosen, target, ("train", "score"))

    if (expected := cheat.expected(laboratory.tier)) != ANYTHING:
        assert expected == named(outcome), outcome
    assert [] == laboratory.left_behind()


async def test_what_attacks_aim_at_is_untouched(laboratory: Laboratory, target: str) -> None:
    if laboratory.tier == "T3":
        pytest.skip("T3 is no boundary")
    before = secret_of(target)
    await attack(laboratory, WRITING["home"], target)

    assert before == secret_of(target)


async def test_an_attack_does_not_disturb_its_neighbours(laboratory: Laboratory, target: str) -> None:
    hostile = [PROCESSES["segmentation fault"], RESOURCES["memory in one process"], PROCESSES["exit"]]
    attacks = [attack(laboratory, each, target) for each in hostile]
    healthy = [laboratory.run(HEALTHY) for _ in range(3)]
    outcomes = await asyncio.gather(*attacks, *healthy)

    assert ["crashed", "memory_limit", "crashed", *3 * [SUCCEEDS]] == [named(outcome) for outcome in outcomes]
    assert [] == laboratory.left_behind()
