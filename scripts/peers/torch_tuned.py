"""The settings under which PyTorch is a fair peer, the same for every script here.

Call tune() before torch is imported and start() after it. tune() runs the calling script again, once, in the
environment that Debian's build is fastest in:
- OpenBLAS with torch's thread pool (OpenMP): two pools that spin fight for the cores;
- OpenBLAS's kernels for this processor. It knows processors by family and model and takes one newer than itself for
  something far older; so the kernels that fit the instruction set are timed against those it would choose;
- the widest vectors of torch's own kernels;
- a malloc that keeps large blocks, as the engine does: without it a training step spends thousands of page faults."""
import ctypes
import json
import os
import subprocess
import sys
import time

FOLDER = "/usr/lib/x86_64-linux-gnu/openblas-openmp"
AVX512 = {"avx512f", "avx512dq", "avx512vl", "avx512bw"}
N = 384


def has_avx512():
    return AVX512 <= set(open("/proc/cpuinfo").read().split("flags", 1)[-1].split("\n", 1)[0].split())


def time_openblas():
    """Prints the name of the kernels that OpenBLAS runs here and the least seconds of an N x N x N product."""
    blas = ctypes.CDLL("libopenblas.so.0")
    blas.openblas_get_corename.restype = ctypes.c_char_p
    a, b, c = ((ctypes.c_float * (N * N))() for _ in range(3))
    n, one, least = ctypes.c_int(N), ctypes.c_float(1), float("inf")
    for _ in range(15):
        start = time.perf_counter()
        blas.cblas_sgemm(101, 111, 111, n, n, n, one, a, n, b, n, one, c, n)
        least = min(least, time.perf_counter() - start)
    print(json.dumps([blas.openblas_get_corename().decode(), least]))


def faster_kernels(env):
    """(name, was it told to) of the OpenBLAS kernels that are faster: those that fit the instruction set, unless the
    ones it chooses by itself are ahead by more than noise."""
    fitting, timed = "SkylakeX" if has_avx512() else "Haswell", {}
    for name in (fitting, ""):
        child = subprocess.run([sys.executable, __file__], env=dict(env, OPENBLAS_CORETYPE=name) if name else env,
                               capture_output=True, text=True)
        if child.returncode:  # no libopenblas.so.0: torch has another BLAS
            return None, False
        timed[name] = json.loads(child.stdout)
    return (fitting, True) if timed[fitting][1] <= 1.03 * timed[""][1] else (timed[""][0], False)


def tune(threads):
    if os.environ.get("TB_TORCH_TUNED"):
        return
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    env.update(OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads), MALLOC_TRIM_THRESHOLD_="4000000000",
               MALLOC_MMAP_THRESHOLD_="4000000000", ATEN_CPU_CAPABILITY="avx512" if has_avx512() else "avx2")
    if os.path.isdir(FOLDER):
        env["LD_LIBRARY_PATH"] = FOLDER
    kernels, is_told = faster_kernels(env)
    if is_told:
        env["OPENBLAS_CORETYPE"] = kernels
    env["TB_TORCH_TUNED"] = f"{'openblas-openmp' if os.path.isdir(FOLDER) else 'blas'}:{kernels or 'unknown'}"
    os.execve(sys.executable, [sys.executable] + sys.argv, env)


def start(torch, threads):
    """Sets torch's own switches; returns its version and all settings, in one word."""
    torch.set_num_threads(int(threads))
    torch.set_num_interop_threads(1)
    torch.set_flush_denormal(False)  # kept, as the engine keeps them
    return f"torch-{torch.__version__},{os.environ['TB_TORCH_TUNED']},{os.environ['ATEN_CPU_CAPABILITY']}"


if __name__ == "__main__":
    time_openblas()
