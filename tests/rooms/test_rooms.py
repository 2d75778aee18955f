#!/usr/bin/env python3
"""The shape of the house: which room may include which, every op in its four places, and what no committed file may hold.

Every rule is tried on a planted violation first.
"""
import pathlib
import re
import subprocess
import tempfile
import unittest

import closing_line

ROOT = pathlib.Path(__file__).resolve().parents[2]
# An arrow points to a lower floor or stays in its room. Rooms of one floor do not know each other.
FLOORS = {"base": 0, "cpu": 1, "cuda": 1, "engine": 2, "models": 3, "data": 3, "inference": 4, "trainers": 5, "bench": 6, "cli": 7}
SOURCES = {".h", ".cuh", ".cpp", ".cu", ".def"}
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)
OUTSIDE = ("tests",)


def wrong_arrows(root):
    """Lines `file -> include` for every include that points up, sideways, or out of the rooms."""
    wrong = []
    for room in FLOORS:
        for file in sorted((root / room).rglob("*")):
            if file.suffix not in SOURCES:
                continue
            for included in INCLUDE.findall(file.read_text(errors="replace")):
                target = included.split("/")[0] if "/" in included else ""
                if included.startswith(".."):
                    wrong.append(f"{file.relative_to(root)} -> {included} (write the path from the root)")
                elif target in OUTSIDE or (target in FLOORS and target != room and FLOORS[target] >= FLOORS[room]):
                    wrong.append(f"{file.relative_to(root)} -> {included}")
    return wrong


def tracked_files(root):
    listing = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if listing.returncode:
        return None
    return [root / name for name in listing.stdout.decode().split("\0") if name]


# Written in two halves, so that this file does not hold what it looks for.
FORBIDDEN = [
    ("a path of one machine", rb"(?<![\w.$}~/-])/(?:wo" rb"rk|fa" rb"rm|ro" rb"ot|ho" rb"me/\w+|t" rb"mp)/"),
    ("a registry's host", rb"py" rb"pi\.org|python" rb"hosted\.org|npm" rb"js\.org|crates" rb"\.io|proxy\.go" rb"lang\.org|conda" rb"\.org|gh" rb"cr\.io"
                          rb"|docker" rb"\.io|nv" rb"cr\.io|index" rb"-url"),
]
DATA = {".safetensors", ".gguf", ".npy", ".png"}


def forbidden_text(files):
    found = []
    for file in files:
        if file.suffix in DATA or not file.is_file():
            continue
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            for what, pattern in FORBIDDEN:
                if re.search(pattern, line):
                    found.append(f"{file}:{number}: {what}: {line.strip()[:100].decode(errors='replace')}")
    return found


def write(root, files):
    for name, text in files.items():
        path = pathlib.Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Arrows(unittest.TestCase):
    def test_planted_violations_are_found(self):
        cases = [("base/a.h", '#include "engine/core/tensor.h"'), ("cpu/a.cpp", '#include "cuda/a.h"'), ("cuda/a.cu", '# include "cpu/a.h"'),
                 ("cpu/a.cpp", '#include "engine/core/tensor.h"'), ("engine/ops/a.h", "#include <models/llm/decoder.h>"),
                 ("models/a.cpp", '#include "data/a.h"'), ("data/a.h", '  #include "models/a.h"'), ("inference/a.h", '#include "trainers/sft.h"'),
                 ("trainers/a.cpp", '#include "cli/commands.h"'), ("engine/a.h", '#include "tests/support/paths.h"'), ("trainers/a.cpp", '#include "bench/suite/bench.h"'),
                 ("engine/a.h", '#include "../models/a.h"')]
        for name, line in cases:
            with tempfile.TemporaryDirectory() as folder:
                write(folder, {name: f"#pragma once\n{line}\n"})
                self.assertEqual(len(wrong_arrows(pathlib.Path(folder))), 1, f"{name}: {line}")

    def test_arrows_that_point_down_are_allowed(self):
        with tempfile.TemporaryDirectory() as folder:
            write(folder, {"cli/a.cpp": '#include "trainers/sft.h"\n#include "base/error.h"\n#include <vector>\n#include <sys/mman.h>\n',
                           "engine/a.cpp": '#include "engine/b.h"\n#include "cpu/a.h"\n#include "cuda/a.h"\n',
                           "inference/a.cpp": '#include "models/a.h"\n#include "data/a.h"\n', "base/a.h": '#include "base/b.h"\n'})
            self.assertEqual(wrong_arrows(pathlib.Path(folder)), [])

    def test_the_rooms(self):
        self.assertTrue(list((ROOT / "base").glob("*.h")), "no sources found")
        self.assertEqual(wrong_arrows(ROOT), [])


class FourPlaces(unittest.TestCase):
    OP = {"engine/ops/ops.def": "// comment\nOP(rms_norm, norm, RmsNorm)\n",
          "engine/ops/norm.h": "Tensor rms_norm(const Tensor& x);\n",
          "cpu/norm.cpp": "void run(const RmsNorm& a, Stream& s) {}\n",
          "cuda/norm.cu": "void run(const RmsNorm& a, Stream& s) {}\n",
          "tests/ops/norm.cpp": "OP_CASES(rms_norm) {}\n"}

    def check(self, files):
        with tempfile.TemporaryDirectory() as folder:
            write(folder, files)
            write(folder, {"driver.cmake": f'include("{ROOT}/cmake/check_ops.cmake")\ncheck_ops("{folder}")\n'})
            done = subprocess.run(["cmake", "-P", f"{folder}/driver.cmake"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, " ".join(done.stdout.split())

    def test_a_complete_op_passes(self):
        status, output = self.check(self.OP)
        self.assertEqual(status, 0, output)

    def test_each_missing_place_is_named(self):
        for place in list(self.OP)[1:]:
            for text in (None, "// nothing here\n"):
                files = {name: content for name, content in self.OP.items() if name != place}
                if text:
                    files[place] = text
                status, output = self.check(files)
                self.assertNotEqual(status, 0, place)
                self.assertIn(f"op 'rms_norm' is missing in {place}", output)
                self.assertEqual(output.count("is missing in"), 1, output)

    def test_a_name_that_only_begins_alike_does_not_count(self):
        status, output = self.check({**self.OP, "cpu/norm.cpp": "void run(const RmsNormBackward& a, Stream& s) {}\n"})
        self.assertNotEqual(status, 0)
        self.assertIn("cpu/norm.cpp", output)

    def test_every_missing_place_of_two_ops_is_named(self):
        status, output = self.check({"engine/ops/ops.def": "OP(a, first, A)\nOP(b, second, B)\n"})
        self.assertNotEqual(status, 0)
        self.assertEqual(output.count("is missing in"), 8, output)


class Contents(unittest.TestCase):
    def test_planted_text_is_found(self):
        planted = ["data = /wo" "rk/x", 'open("/t' 'mp/x")', "cd /ro" "ot/x", "/ho" "me/ann/x", "https://py" "pi.org/simple", "--index" "-url x"]
        harmless = ["https://example.org/work/x", "build/work/x", "the work/play balance", "$HOME/root/x", "~/.cache/expctr", "// root/leaf"]
        with tempfile.TemporaryDirectory() as folder:
            write(folder, {"planted": "\n".join(planted), "harmless": "\n".join(harmless)})
            self.assertEqual(len(forbidden_text([pathlib.Path(folder) / "planted"])), len(planted))
            self.assertEqual(forbidden_text([pathlib.Path(folder) / "harmless"]), [])

    def test_committed_files(self):
        files = tracked_files(ROOT)
        if files is None:
            self.skipTest("rooms: not a git checkout")
        self.assertEqual(forbidden_text(files), [])


if __name__ == "__main__":
    closing_line.run(__name__)
