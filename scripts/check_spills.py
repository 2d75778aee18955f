#!/usr/bin/env python3
"""Compiles every cuda/*.cu for sm_80 and sm_90 and fails where ptxas reports that a kernel spills registers to local memory.

First a planted kernel that must spill is compiled, so that a change in ptxas' report does not pass unnoticed.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARCHITECTURES = ("sm_80", "sm_90")
ENTRY = re.compile(r"Function properties for (\S+)|(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
PLANTED = """
__global__ void planted(float* x) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; i++) v[i] = x[i * 64 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; i++) x[threadIdx.x * 64 + i] = v[63 - i] * v[i];
}
"""


def spills(report):
    """[(kernel, bytes stored, bytes loaded)] of the functions that spill, and the number of functions in the report."""
    found, count, kernel = [], 0, "?"
    for match in ENTRY.finditer(report):
        if match.group(1):
            kernel, count = match.group(1), count + 1
        elif int(match.group(3)) or int(match.group(4)):
            found.append((kernel, int(match.group(3)), int(match.group(4))))
    return found, count


def compile_file(nvcc, source, architecture, extra=()):
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-cubin", f"-arch={architecture}", "-std=c++20", "-O3", "-Xptxas", "-v", "--expt-relaxed-constexpr",
                   "-lineinfo", f"-I{ROOT}", *extra, str(source), "-o", os.path.join(folder, "out.cubin")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def demangled(name):
    try:
        return subprocess.run(["c++filt", name], stdout=subprocess.PIPE, text=True).stdout.strip() or name
    except OSError:
        return name


def main():
    parser = argparse.ArgumentParser(description="Report register spills of the CUDA kernels")
    parser.add_argument("--nvcc", default="nvcc")
    nvcc = parser.parse_args().nvcc
    passed = failed = 0

    with tempfile.TemporaryDirectory() as folder:
        planted = pathlib.Path(folder) / "planted.cu"
        planted.write_text(PLANTED)
        status, report = compile_file(nvcc, planted, "sm_80", ["-maxrregcount=24"])
    if status == 0 and spills(report)[0]:
        passed += 1
    else:
        failed += 1
        print(f"FAIL the planted spill was not seen:\n{report}")

    # Files that call cuDNN compile only where it is installed; their kernels are one line.
    sources = [source for source in sorted((ROOT / "cuda").rglob("*.cu")) if not source.name.endswith("_cudnn.cu")]
    jobs = [(source, architecture) for source in sources for architecture in ARCHITECTURES]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda job: compile_file(nvcc, *job), jobs))
    for (source, architecture), (status, report) in zip(jobs, results):
        name = f"{source.relative_to(ROOT)} {architecture}"
        found, count = spills(report)
        if status:
            print(f"FAIL {name} does not compile:\n{report}")
        for kernel, stored, loaded in found:
            print(f"FAIL {name}: {demangled(kernel)} spills {stored} bytes out, {loaded} bytes in")
        if status or found:
            failed += 1
        else:
            passed += 1
            print(f"ok   {name}: {count} functions, none spills")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
