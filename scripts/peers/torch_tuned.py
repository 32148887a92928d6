"""Debian's torch at its best: the environment of every peer that runs it. Import before torch."""
import os
import sys

OPENBLAS = "/usr/lib/x86_64-linux-gnu/openblas-openmp"


def tune(threads):
    """Runs this script again, once, with the processor's own OpenBLAS kernels in one thread pool (OpenMP), the widest
    vectors, and a malloc that keeps large blocks."""
    if os.environ.get("TB_TORCH_TUNED"):
        return
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    flags = open("/proc/cpuinfo").read().split("flags", 1)[-1].split("\n", 1)[0].split()
    env.update(TB_TORCH_TUNED="1", OMP_NUM_THREADS=threads, MALLOC_TRIM_THRESHOLD_="4000000000",
               MALLOC_MMAP_THRESHOLD_="4000000000",
               ATEN_CPU_CAPABILITY="avx512" if {"avx512f", "avx512dq", "avx512vl", "avx512bw"} <= set(flags) else "avx2")
    if os.path.isdir(OPENBLAS):
        env["LD_LIBRARY_PATH"] = OPENBLAS
    os.execve(sys.executable, [sys.executable] + sys.argv, env)


def settings():
    """What a result says of it, without blanks."""
    return f"{'openblas-openmp' if os.path.isdir(OPENBLAS) else 'system-blas'},{os.environ['ATEN_CPU_CAPABILITY']}"
