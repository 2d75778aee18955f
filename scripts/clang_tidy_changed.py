#!/usr/bin/env python3
"""clang-tidy over the .cpp files that differ from where this branch left main, or from the commit before on main itself.

With --all: over every .cpp file. The compilation database comes from a configuration of its own without precompiled headers, which
clang cannot read when gcc wrote them; their text is included instead.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATABASE = ROOT / "build-tidy"


def git(*arguments):
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def base_commit():
    """The merge base with main; on main itself the commit before; None in a history of one commit."""
    head = git("rev-parse", "HEAD")
    for branch in ("origin/main", "main"):
        base = git("merge-base", "HEAD", branch)
        if base and base != head:
            return base
    return git("rev-parse", "--verify", "--quiet", "HEAD~1")


def changed_files():
    base = base_commit()
    names = git("diff", "--name-only", "--diff-filter=d", base) if base else git("ls-files")
    return {ROOT / name for name in (names or "").splitlines()}


def main():
    parser = argparse.ArgumentParser(description="clang-tidy over changed files")
    parser.add_argument("--all", action="store_true", help="every file, changed or not")
    everything = parser.parse_args().all
    if not shutil.which("clang-tidy"):
        print("SKIP clang-tidy is not installed")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    configure = ["cmake", "-S", str(ROOT), "-B", str(DATABASE), "-G", "Ninja", "-DEXPCTR_CUDA=OFF", "-DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON"]
    done = subprocess.run(configure, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout)
        return 1
    compiled = {pathlib.Path(entry["file"]) for entry in json.loads((DATABASE / "compile_commands.json").read_text())}
    files = sorted(compiled if everything else compiled & changed_files())

    def check(file):
        command = ["clang-tidy", "-p", str(DATABASE), "--quiet", "--extra-arg=-Wno-unknown-warning-option",
                   "--extra-arg=-include", f"--extra-arg={ROOT / 'cmake' / 'precompiled.h'}", str(file)]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, result in zip(files, pool.map(check, files)):
            if result.returncode:
                failed += 1
                print(f"FAIL {file.relative_to(ROOT)}\n{result.stdout}")
            else:
                passed += 1
    if not files:
        print("ok   no compiled file changed")
        passed = 1
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
