"""Runs the unittest cases of a file and prints the closing line that scripts/run_tests.py adds up."""
import sys
import unittest


def run(module_name):
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(
        unittest.defaultTestLoader.loadTestsFromModule(sys.modules[module_name]))
    failed = len(result.failures) + len(result.errors)
    for _, reason in result.skipped:
        print(f"SKIP {reason}")
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed, {len(result.skipped)} skipped")
    sys.exit(1 if failed else 0)
