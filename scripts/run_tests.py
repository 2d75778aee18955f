#!/usr/bin/env python3
"""Runs the suites that CTest knows of, one after the other, and adds up their closing lines.

Every suite ends with a line `N passed, N failed, N skipped`. A suite that ends without one (a crash), that exits non-zero without a
failure, that runs no test, or in which the virtual GPU reports something, counts as a failure. `SKIP <reason>` lines are collected;
with CI=true in the environment a reason that tests/allowed_skips does not list is a failure.

The last line of the output is the sum over all suites. Exit status: 0 when nothing failed, else 1.
"""
import argparse
import fnmatch
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLOSING = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)
# A fault, or a finding with the place of the kernel below it. Other `vgpu: ` lines explain an error code that the program got.
VGPU_REPORT = re.compile(r"^vgpu: (error \d+: .*|.*(?=\n {2}in .* block ))", re.MULTILINE)
TAIL_LINES = 150


class Suite:
    """One CTest test: its command and what CTest would set around it."""

    def __init__(self, entry):
        properties = {p["name"]: p["value"] for p in entry.get("properties", [])}
        self.name = entry["name"]
        self.command = entry.get("command", [])
        self.labels = properties.get("LABELS", [])
        self.directory = properties.get("WORKING_DIRECTORY", str(ROOT))
        self.timeout = float(properties.get("TIMEOUT", 900))
        self.variables = properties.get("ENVIRONMENT", [])
        self.modifications = properties.get("ENVIRONMENT_MODIFICATION", [])

    def environment(self):
        result = dict(os.environ)
        result.update(v.split("=", 1) for v in self.variables)
        for modification in self.modifications:
            name, rest = modification.split("=", 1)
            operation, value = rest.split(":", 1)
            if operation != "path_list_prepend":
                raise SystemExit(f"error: {self.name} uses {operation}\nHINT: run_tests.py knows path_list_prepend")
            result[name] = value + (os.pathsep + result[name] if result.get(name) else "")
        return result


class Outcome:
    def __init__(self, suite, seconds, text, problem, without_skips):
        self.name, self.seconds, self.text = suite.name, seconds, text
        self.problems = [problem] if problem else []
        counts = CLOSING.findall(text)
        self.passed, self.failed, self.skipped = (int(n) for n in counts[-1]) if counts else (0, 0, 0)
        self.skips = [] if without_skips else sorted(set(re.findall(r"^SKIP +(.+?)\s*$", text, re.MULTILINE)))
        if not counts:
            self.problems.append("ended without a line `N passed, N failed, N skipped`")
        elif self.passed + self.failed + self.skipped == 0:
            self.problems.append("ran no test")
        if without_skips:
            self.skipped = 0
        reports = VGPU_REPORT.findall(text)
        if reports and "vgpu" not in suite.labels:
            self.problems.append(f"the virtual GPU reported: {reports[0]}")


def run(suite, log, without_skips):
    start, problem = time.monotonic(), None
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(suite.command, cwd=suite.directory, env=suite.environment(), stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        except (OSError, IndexError) as error:
            problem = f"could not be started: {error}"
        else:
            try:
                status = process.wait(timeout=suite.timeout)
            except subprocess.TimeoutExpired:
                problem = f"stopped after {suite.timeout:.0f} s"
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            else:
                problem = f"killed by signal {-status}" if status < 0 else f"exit status {status}" if status else None
            if problem and problem.startswith("stopped"):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    outcome = Outcome(suite, time.monotonic() - start, log.read_text(errors="replace"), problem, without_skips)
    # A failing test makes its program exit with 1: that is counted already. Anything else is one failure more.
    if outcome.problems and not (outcome.failed and outcome.problems == ["exit status 1"]):
        outcome.failed += 1
    return outcome


def discover(build):
    listing = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"], stdout=subprocess.PIPE, check=True).stdout
    return [Suite(entry) for entry in json.loads(listing)["tests"]]


def refused_skips(reasons, list_file):
    """Reasons that no pattern of the list (shell wildcards, # begins a comment) matches."""
    lines = [line.split("#")[0].strip() for line in list_file.read_text().splitlines()] if list_file.exists() else []
    patterns = [line for line in lines if line]
    return [r for r in reasons if not any(fnmatch.fnmatchcase(r, p) for p in patterns)]


def print_table(outcomes):
    width = max([len(o.name) for o in outcomes] + [5])
    print(f"\n{'suite':<{width}}  seconds  passed  failed  skipped")
    for o in outcomes:
        print(f"{o.name:<{width}}  {o.seconds:7.1f}  {o.passed:6}  {o.failed:6}  {o.skipped:7}")
    print(f"{'all':<{width}}  {sum(o.seconds for o in outcomes):7.1f}")


def main():
    parser = argparse.ArgumentParser(description="Run the test suites of a build folder")
    parser.add_argument("--build", default=str(ROOT / "build"), help="build folder")
    parser.add_argument("--label", help="only suites with this label; without it, those that are not labelled slow")
    parser.add_argument("--all", action="store_true", help="every suite, slow ones too")
    parser.add_argument("--only", help="only suites whose name matches this regular expression")
    parser.add_argument("--without-skips", action="store_true", help="do not judge or count skips: the plain run of the suites does")
    parser.add_argument("--verbose", action="store_true", help="print the output of suites that pass, too")
    arguments = parser.parse_args()

    suites = discover(arguments.build)
    if not arguments.all:
        suites = [s for s in suites if (arguments.label in s.labels if arguments.label else "slow" not in s.labels)]
    if arguments.only:
        suites = [s for s in suites if re.search(arguments.only, s.name)]
    if not suites:
        print("error: no suite to run\nHINT: is the project built with EXPCTR_TESTS=ON, and does --only match a name?", file=sys.stderr)
        return 1

    logs = pathlib.Path(arguments.build).resolve() / "test_logs"
    logs.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for suite in suites:
        outcome = run(suite, logs / f"{suite.name}.log", arguments.without_skips)
        outcomes.append(outcome)
        verdict = "ok  " if not outcome.failed else "FAIL"
        print(f"{verdict} {suite.name:<20} {outcome.seconds:7.1f} s  {outcome.passed} passed, {outcome.failed} failed, "
              f"{outcome.skipped} skipped", flush=True)
        if outcome.failed or arguments.verbose:
            print("\n".join("     | " + line for line in outcome.text.splitlines()[-TAIL_LINES:]))
            for problem in outcome.problems:
                print(f"     {suite.name}: {problem}")
            print(f"     whole output: {logs / (suite.name + '.log')}", flush=True)

    print_table(outcomes)
    reasons = sorted({r for o in outcomes for r in o.skips})
    if reasons:
        print("\nskipped:")
        for reason in reasons:
            print(f"  SKIP {reason}")
    refused = refused_skips(reasons, ROOT / "tests" / "allowed_skips") if os.environ.get("CI") == "true" else []
    for reason in refused:
        print(f"error: not in tests/allowed_skips: {reason}")
    failed = sum(o.failed for o in outcomes) + len(refused)
    print(f"\n{sum(o.passed for o in outcomes)} passed, {failed} failed, {sum(o.skipped for o in outcomes)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
