"""What the GPUs of this container hold, asked of the driver."""

import contextlib
from typing import Any


class Gpus:
    """The GPUs that the container was given; none where there is no driver, or nothing that asks it.

    The driver (NVML) is asked and no CUDA context is made, so that a server which forks may hold one of these.
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []
        with contextlib.suppress(ImportError):
            import pynvml  # type: ignore[import-untyped]

            self._driver = pynvml
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                self._handles = [pynvml.nvmlDeviceGetHandleByIndex(each) for each in range(pynvml.nvmlDeviceGetCount())]

    def used(self) -> int:
        """Bytes in use on all of them; 0 where there are none, and while the driver does not answer."""
        if not self._handles:
            return 0
        try:
            return sum(int(self._driver.nvmlDeviceGetMemoryInfo(handle).used) for handle in self._handles)
        except self._driver.NVMLError:
            return 0
