"""Run the tests as on CPUs that offer fewer vector instructions than this one.

    python tools/capabilities.py [arguments of pytest]

One run for each set that this CPU offers, the smallest first; all of them, whatever fails. Results
in float32 differ in their last bits from set to set, and no test may hang on them.
"""

import os
import subprocess
import sys
import time

# What holds PyTorch's own kernels, the operator's, oneDNN's and MKL's to a set.
SETTINGS = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "MS_DETR_CPU": "baseline",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MS_DETR_CPU": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
    },
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "MS_DETR_CPU": "avx512"},
}


def offered() -> list[str]:
    """The sets of this CPU, the smallest first; of one that isn't x86 its only one."""
    import torch

    best = torch.backends.cpu.get_cpu_capability().lower()
    names = list(SETTINGS)
    return names[: names.index(best) + 1] if best in names else names[:1]


def main(arguments: list[str]) -> int:
    """Run pytest once for each set; 1 if any run failed."""
    failed, summary = False, []
    for name in offered():
        print(f"== {name}:", *(f"{k}={v}" for k, v in SETTINGS[name].items()), flush=True)
        start = time.monotonic()
        command = [sys.executable, "-m", "pytest", *arguments]
        status = subprocess.run(command, check=False, env=os.environ | SETTINGS[name]).returncode
        failed |= status != 0
        result = f"failed with status {status}" if status else "passed"
        summary.append(f"{name}: {result} in {time.monotonic() - start:.0f} s")
    print("==", ", ".join(summary))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
