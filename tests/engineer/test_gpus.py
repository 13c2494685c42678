"""GPU memory is what the driver says; without a driver there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evolvent_engineer.gpus import Gpus

DRIVER = """
typedef struct { unsigned long long total, free, used; } memory;
static int devices[2];
int nvmlInitWithFlags(unsigned int flags) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { *device = &devices[index]; return 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory *found) {
    found->total = 80ull << 30; found->used = (device == &devices[0]) ? 3ull << 30 : 5ull << 30;
    found->free = found->total - found->used; return LOST;
}
"""
"""As libnvidia-ml answers (NVML API reference, "Initialization" and "Device Queries"); 15 is GPU_IS_LOST."""


def driver(folder: Path, lost: int = 0) -> Path:
    """Build it, for LD_LIBRARY_PATH."""
    (folder / "driver.c").write_text(DRIVER)
    library = ["cc", "-shared", "-fPIC", f"-DLOST={lost}", "-o", str(folder / "libnvidia-ml.so.1"), "driver.c"]
    subprocess.run(library, cwd=folder, check=True)
    return folder


def asked_of(folder: Path, lost: int) -> int:
    code = "from evolvent_engineer.gpus import Gpus; print(Gpus().used())"
    place = os.environ | {"LD_LIBRARY_PATH": str(driver(folder, lost))}
    found = subprocess.run([sys.executable, "-c", code], env=place, capture_output=True, check=True)
    return int(found.stdout)


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here to build a driver with")


@needs_compiler
def test_the_memory_of_all_gpus_is_added_up(tmp_path: Path) -> None:
    assert 8 << 30 == asked_of(tmp_path, lost=0)


@needs_compiler
def test_a_gpu_that_fell_off_the_bus_breaks_nothing(tmp_path: Path) -> None:
    assert 0 == asked_of(tmp_path, lost=15)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a driver here")
def test_without_a_driver_there_are_none() -> None:
    assert 0 == Gpus().used()
