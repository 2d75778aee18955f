#!/usr/bin/env python3
"""scripts/run_tests.py must notice every way in which a suite can fail, and scripts/install_packages.sh must say what to do."""
import os
import pathlib
import stat
import subprocess
import tempfile
import unittest

import closing_line

ROOT = pathlib.Path(__file__).resolve().parents[2]
CTEST_FILE = """add_test(good printf "ok\\n3 passed, 0 failed, 1 skipped\\n")
{tests}"""


def run_suites(tests, ci=False, arguments=()):
    """Runs run_tests.py on CTest lines beside one good suite: exit status, last line, whole output."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "CTestTestfile.cmake").write_text(CTEST_FILE.format(tests=tests))
        environment = {**os.environ, "CI": "true" if ci else ""}
        done = subprocess.run(["python3", str(ROOT / "scripts/run_tests.py"), "--build", folder, *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env=environment)
    return done.returncode, done.stdout.rstrip("\n").splitlines()[-1], done.stdout


class Runner(unittest.TestCase):
    def expect(self, tests, status, closing, **options):
        result = run_suites(tests, **options)
        self.assertEqual(result[:2], (status, closing), result[2])
        return result[2]

    def test_sums_over_suites(self):
        self.expect('add_test(more printf "2 passed, 0 failed, 0 skipped\\n")', 0, "5 passed, 0 failed, 1 skipped")

    def test_failed_tests_count_once(self):
        self.expect('add_test(bad sh -c "echo 2 passed, 4 failed, 0 skipped; exit 1")', 1, "5 passed, 4 failed, 1 skipped")

    def test_no_closing_line_is_a_failure(self):
        output = self.expect('add_test(mute echo hello)', 1, "3 passed, 1 failed, 1 skipped")
        self.assertIn("without a line", output)

    def test_closing_line_must_stand_alone(self):
        self.expect('add_test(mute echo "x 2 passed, 0 failed, 0 skipped")', 1, "3 passed, 1 failed, 1 skipped")

    def test_crash_is_a_failure(self):
        output = self.expect('add_test(crash sh -c "kill -SEGV $$")', 1, "3 passed, 1 failed, 1 skipped")
        self.assertIn("killed by signal 11", output)

    def test_exit_status_counts_after_a_good_closing_line(self):
        self.expect('add_test(late sh -c "echo 1 passed, 0 failed, 0 skipped; exit 3")', 1, "4 passed, 1 failed, 1 skipped")

    def test_a_program_that_is_not_there(self):
        self.expect('add_test(absent no-such-program-here)', 1, "3 passed, 1 failed, 1 skipped")

    def test_nothing_run_is_a_failure(self):
        self.expect('add_test(empty printf "0 passed, 0 failed, 0 skipped\\n")', 1, "3 passed, 1 failed, 1 skipped")

    def test_time_limit(self):
        output = self.expect('add_test(slow sleep 60)\nset_tests_properties(slow PROPERTIES TIMEOUT 1)', 1, "3 passed, 1 failed, 1 skipped")
        self.assertIn("stopped after 1 s", output)

    def test_report_of_the_virtual_gpu(self):
        # Printed by the virtual GPU for a planted race, a fault, and an allocation that does not fit.
        race = "vgpu: race: shared byte 0 written by two threads\\n  in fill block (0,0,0) thread (1,0,0) at x.cu:7"
        fault = "vgpu: error 700: 4 bytes past the end of an allocation"
        explained = "vgpu: cudaMalloc: out of memory: 9 bytes asked, 0 used"
        for text, failures in ((race, 1), (fault, 1), (explained, 0)):
            command = f'add_test(gpu printf "{text}\\n1 passed, 0 failed, 0 skipped\\n")'
            self.expect(command, failures, f"4 passed, {failures} failed, 1 skipped")
            self.expect(f'{command}\nset_tests_properties(gpu PROPERTIES LABELS vgpu)', 0, "4 passed, 0 failed, 1 skipped")

    def test_labels(self):
        tests = 'add_test(late printf "7 passed, 0 failed, 0 skipped\\n")\nset_tests_properties(late PROPERTIES LABELS slow)'
        self.expect(tests, 0, "3 passed, 0 failed, 1 skipped")
        self.expect(tests, 0, "7 passed, 0 failed, 0 skipped", arguments=["--label", "slow"])

    def test_environment(self):
        tests = ('add_test(env sh -c "echo $A $LD_LIBRARY_PATH; echo 1 passed, 0 failed, 0 skipped")\nset_tests_properties(env PROPERTIES '
                 'ENVIRONMENT "A=b c" ENVIRONMENT_MODIFICATION "LD_LIBRARY_PATH=path_list_prepend:first")')
        self.assertIn("| b c first", self.expect(tests, 0, "4 passed, 0 failed, 1 skipped", arguments=["--verbose"]))

    def test_skips_are_judged_where_ci_says_so(self):
        line = 'sh -c "echo SKIP weather: rain; echo 0 passed, 0 failed, 1 skipped"'
        self.assertIn("SKIP weather: rain", self.expect(f'add_test(s {line})', 0, "3 passed, 0 failed, 2 skipped"))
        output = self.expect(f'add_test(s {line})', 1, "3 passed, 1 failed, 2 skipped", ci=True)
        self.assertIn("not in tests/allowed_skips: weather: rain", output)
        allowed = 'sh -c "echo SKIP cuda: no nvcc; echo 0 passed, 0 failed, 1 skipped"'
        self.expect(f'add_test(s {allowed})', 0, "3 passed, 0 failed, 2 skipped", ci=True)


class Packages(unittest.TestCase):
    def run_with(self, user, installed):
        """install_packages.sh among stand-ins: dpkg-query knows `installed`, id says `user`, apt-get writes down how it was called."""
        with tempfile.TemporaryDirectory() as folder:
            tools = {"dpkg-query": f'for last; do :; done; case " {installed} " in *" $last "*) echo "install ok installed";; *) exit 1;; esac',
                     "id": f"echo {user}", "apt-get": f'echo "apt-get $*" >> {folder}/calls', "sudo": "exit 1"}
            for name, body in tools.items():
                path = pathlib.Path(folder) / name
                path.write_text(f"#!/bin/bash\n{body}\n")
                path.chmod(path.stat().st_mode | stat.S_IXUSR)
            done = subprocess.run([str(ROOT / "scripts/install_packages.sh"), "alpha", "beta"], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})
            calls = pathlib.Path(folder) / "calls"
            return done.returncode, done.stdout, calls.read_text() if calls.exists() else ""

    def test_nothing_missing_needs_nobody(self):
        status, output, calls = self.run_with(1000, "alpha beta")
        self.assertEqual((status, calls), (0, ""), output)

    def test_root_installs_what_is_missing(self):
        status, output, calls = self.run_with(0, "alpha")
        self.assertEqual(status, 0, output)
        self.assertIn("install -y --no-install-recommends beta\n", calls)

    def test_without_root_or_sudo_the_line_is_printed(self):
        status, output, calls = self.run_with(1000, "beta")
        self.assertEqual((status, calls), (1, ""), output)
        self.assertIn("apt-get update && apt-get install -y --no-install-recommends alpha\n", output)


if __name__ == "__main__":
    closing_line.run(__name__)
