#!/usr/bin/env python3
"""Compares with the reference values: runs every test case whose name speaks of an oracle or a reference value and prints its
`oracle <path> ...` lines.

Case folders (those with a case.json or manifest.json) that no test mentions are listed as `oracle <path> unsupported`. Exit status: 1
when a line says FAIL, when a test fails otherwise, or when nothing was compared.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys

import run_tests

LINE = re.compile(r"^oracle (\S+) (ok|FAIL|unsupported)\b.*$", re.MULTILINE)


def case_folders(root):
    return sorted({str(file.parent.relative_to(root)) for name in ("case.json", "manifest.json") for file in root.rglob(name)})


def main():
    parser = argparse.ArgumentParser(description="Compare with the reference values")
    parser.add_argument("--build", default=str(run_tests.ROOT / "build"), help="build folder")
    build = parser.parse_args().build
    root = pathlib.Path(os.environ.get("EXPCTR_ORACLES", run_tests.ROOT / "tests" / "oracles"))
    if not root.is_dir():
        print(f"error: no folder of reference values: {root}\nHINT: EXPCTR_ORACLES names it", file=sys.stderr)
        return 1

    verdicts, failed = {}, 0  # path of a case -> ok, FAIL or unsupported; several tests may speak of one case
    programs = {s.command[0]: s for s in run_tests.discover(build) if s.command and re.match(r"test_\w+$", pathlib.Path(s.command[0]).name)}
    for program, suite in sorted(programs.items()):
        done = subprocess.run([program, "--test-case=*oracle*,*reference value*", "--no-colors"], cwd=suite.directory, env=suite.environment(),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        found = list(LINE.finditer(done.stdout))
        for match in found:
            print(match.group(0), flush=True)
            verdicts.setdefault(match.group(1), set()).add(match.group(2))
            failed += match.group(2) == "FAIL"
        if done.returncode and not any(match.group(2) == "FAIL" for match in found):
            failed += 1
            print(done.stdout)
            print(f"error: {pathlib.Path(program).name} ended with status {done.returncode}")

    compared = sum("unsupported" not in verdict for verdict in verdicts.values())
    for case in case_folders(root):
        if not any(path == case or path.startswith(case + "/") for path in verdicts):
            print(f"oracle {case} unsupported nothing compares with it yet")
    if not compared:
        print("error: nothing was compared")
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
