#!/usr/bin/env python3
"""Writes the table of CUDA kernels in docs/kernels.md from a profile of the tests in tests/cuda_profile.

    scripts/kernel_table.py                    # runs build/tests/test_cuda_profile (its slow cases too) on the virtual GPU
    scripts/kernel_table.py --profiles FOLDER  # profiles that EXPCTR_KEEP_PROFILES=FOLDER kept
    scripts/kernel_table.py --check            # fails where the page lacks a kernel of cuda/*.cu that the profile has

One row a kernel and storage: its largest launch, at compute capability 8.0 or 9.0. The bound is that of tests/vgpu/tools/roofline.py: compulsory
traffic (every 32-byte sector once) or arithmetic, at an H100's rates. The headroom is what the kernel's own requests cost beside the
bound, at the same rates: bytes asked for, sectors touched, and warp instructions through 132 x 4 schedulers; 1.00 means that nothing but
the bound is in the way.
"""
import argparse
import glob
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "kernels.md"
BEGIN, END = "<!-- table: scripts/kernel_table.py -->", "<!-- end of table -->"
SCHEDULERS, CLOCK, L2 = 132 * 4, 1.755e9, 5.5e12
LEAST_BYTES = 1e5  # smaller launches say nothing about a kernel's traffic
# Of a sort of ids, launches of one thread, and kernels that the tests plant: not bound by memory, and said so in their files.
LEFT_OUT = re.compile(r"^(make_pairs|histogram|scan|scatter|adamw_factors|advance_step|finish_)")


def roofline():
    """bounds() and library_call() of the virtual GPU's tool, which is a program, not a module."""
    text = (ROOT / "tests" / "vgpu" / "tools" / "roofline.py").read_text()
    names = {}
    exec(compile(text.rsplit("\nmain()", 1)[0], "roofline.py", "exec"), names)
    return names["bounds"], names["library_call"]


def template_arguments(text):
    """The arguments between the first < and its >, at the top level."""
    depth, start, found = 0, 0, []
    for i, c in enumerate(text):
        if c == "<":
            depth += 1
            if depth == 1:
                start = i + 1
        elif c == ">":
            depth -= 1
            if depth == 0:
                return found + [text[start:i].strip()]
        elif c == "," and depth == 1:
            found.append(text[start:i].strip())
            start = i + 1
    return found


def short_name(record):
    """("map EvaluateUnary", "bf16") of a launch."""
    text = record["kernel"].replace("(anonymous namespace)::", "").replace("expctr::cuda::", "").replace("expctr::", "")
    text = re.sub(r"^void ", "", text)
    head = text.split("(", 1)[0]
    name = re.match(r"\w+", head).group(0)
    arguments = template_arguments(head)
    # The functor, term or body that says what a generic kernel does.
    said = [m.group(0) for a in arguments for m in [re.match(r"[A-Z]\w+", a)] if m and m.group(0) not in ("Bf16", "FloatOperands", "PlainStorage")]
    said = [s for s in said if not s.startswith(("Store", "AddInto", "AddColumns", "HeldRow", "Columns"))][:1]
    if "broadcast" in name or "column" in name or "row_sums" in name:
        inner = re.findall(r"(?:ColumnGradient|RowGradient|AnyGradient)<\d+, \w+, (\w+)>", head)
        said += inner
    held = re.search(r"HeldRow<(\d+)", head)
    if held:
        said.append("a warp a row" if held.group(1) == "32" else "a block a row")
    block = re.search(r"Block(Q\w+?)\b", head)
    if block:
        storage = block.group(1).lower()
        said = [s for s in said if not s.startswith("Format")]
    else:
        storage = "bf16" if record["flops_tensor"] or re.search(r"\bBf16\b|__nv_bfloat16|unsigned short", head) else "f32"
    return " ".join([re.sub(r"_kernel$", "", name)] + said), storage


def read(folder):
    """{(kernel, storage): its largest launch}"""
    bounds, library_call = roofline()
    rows = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.jsonl"))):
        with open(path) as lines:
            for line in lines:
                record = json.loads(line)
                if "library_call" in record:
                    record = library_call(record)
                if "kernel" not in record:
                    continue
                bytes_once = record["dram_read_bytes"] + record["dram_write_bytes"]
                if not record["grid"]:
                    continue
                name, storage = short_name(record)
                if LEFT_OUT.match(name) or bytes_once < LEAST_BYTES:
                    continue
                old = rows.get((name, storage))
                if old is None or bytes_once > old["dram_read_bytes"] + old["dram_write_bytes"]:
                    record["bound"] = bounds(record)
                    rows[(name, storage)] = record
    return rows


def row(name, storage, r):
    once = r["dram_read_bytes"] + r["dram_write_bytes"]
    asked = r["global_load_bytes"] + r["global_store_bytes"] + r["bulk_load_bytes"] + r["bulk_store_bytes"]
    sectors = 32 * (r["global_load_sectors"] + r["global_store_sectors"])
    limit = max(r["bound"], key=r["bound"].get)
    bound = r["bound"][limit]
    issue = r["warp_instructions"] / (SCHEDULERS * CLOCK)
    own = max(bound, issue, sectors / L2, asked / L2)
    efficiency = (r["global_load_bytes"] + r["global_store_bytes"]) / sectors if sectors else 1.0
    shared = r["shared_loads"] + r["shared_stores"]
    conflicts = f"{100 * r['bank_conflicts'] / shared:.0f} %" if shared else "-"
    shape = f"{'x'.join(str(g) for g in r['grid'] if g != 1) or 1} by {r['block'][0] * r['block'][1] * r['block'][2]}"
    return (f"| {name} | {storage} | {shape} | {once / 1e6:.2f} | {bound * 1e6:.2f} | {limit} | {asked / once:.2f} | {100 * efficiency:.0f} % | "
            f"{conflicts} | {issue * 1e6:.2f} | {own / bound:.2f} |")


def table(rows):
    head = ["| kernel | storage | blocks by threads | MB once | bound, us | by | asked / once | sectors used | bank conflicts | issue, us | headroom |",
            "|---|---|---|---:|---:|---|---:|---:|---:|---:|---:|"]
    return "\n".join(head + [row(name, storage, r) for (name, storage), r in sorted(rows.items())])


def profile(program, library, folder):
    environment = dict(os.environ, EXPCTR_KEEP_PROFILES=folder)
    if library:
        environment["LD_LIBRARY_PATH"] = library + os.pathsep + environment.get("LD_LIBRARY_PATH", "")
    done = subprocess.run([program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {program} failed:\n{done.stdout[-3000:]}\nHINT: mend the tests first")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--vgpu", default="", help="lib folder of the virtual GPU; the build folder's own")
    parser.add_argument("--profiles", default="", help="folder with kept profiles instead of running the tests")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page lacks a row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.profiles or scratch
        if not options.profiles:
            library = options.vgpu or os.path.join(options.build, "vgpu", "lib")
            profile(os.path.join(options.build, "tests", "test_cuda_profile"), library if os.path.isdir(library) else "", folder)
        rows = read(folder)
    if not rows:
        sys.exit(f"error: no profiles in {folder}\nHINT: EXPCTR_KEEP_PROFILES=FOLDER build/tests/test_cuda_profile")
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    old, after = rest.split(END)
    if options.check:
        missing = sorted(f"{name} {storage}" for name, storage in rows if f"| {name} | {storage} |" not in old)
        if missing:
            sys.exit("error: docs/kernels.md has no row for:\n  " + "\n  ".join(missing) + "\nHINT: scripts/kernel_table.py")
        print(f"{len(rows)} kernels, all in the table")
        return
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}")
    print(f"{len(rows)} kernels in {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
