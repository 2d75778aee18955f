#!/usr/bin/env python3
"""Single operations of the engine and of other libraries, alternately in one run; prints a table and JSON lines.

  python3 bench/peers_kernels.py --peer-python <venv with torch>/bin/python [--rounds 5] [--threads 2] [--only TEXT] [--json FILE]

Peers: PyTorch in an interpreter of its own (--peer-python; without it only the BLAS libraries are measured), and OpenBLAS, BLIS and oneDNN where
the system has them. Each round takes every figure of the engine (`expctr_engine bench --json`) and of the peers, in turn first and last; the
ratio of a round is peer seconds / engine seconds (above 1 the engine is faster), and the median over the rounds is what counts. Seconds are the
fastest repeat by the clock, or with --threads 1 of the processor, which other programs hardly change. Products below 64 rows walk through
copies of the weight that exceed the last-level cache, on every side.
"""
import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time

SHAPES = [(576, 576), (192, 576), (1536, 576), (576, 1536), (49152, 576)]
ROWS = [1, 4, 16, 64, 1024]
MODES = ["f32", "bf16", "int8"]
LIBRARIES = {
    "OpenBLAS": (["libopenblas.so.0", "libopenblas.so"], "cblas_sgemm"),
    "BLIS": (["libblis.so.4", "libblis.so"], "cblas_sgemm"),
    "oneDNN": (["libdnnl.so.3", "libdnnl.so.2", "libdnnl.so"], "dnnl_sgemm"),
}
OTHERS = ["rms_norm", "softmax", "adamw", "attention/causal/gradient", "attention/full/gradient", "cross_entropy/49152/gradient",
          "linear_cross_entropy/49152"]


def product_names():
    """Of one group: all figures that share a weight shape."""
    groups = []
    for n, k in SHAPES:
        for m in ROWS:
            groups.append([f"matmul/{m}x{n}x{k}/{mode}" for mode in MODES] + [f"linear_frozen/{m}x{n}x{k}/f32"])
    return groups


def fastest(call, threads, budget):
    """Seconds of one call(i): the fastest group within the budget, after one that is not counted."""
    clock = time.process_time if threads == 1 else time.perf_counter
    call(0)
    best, i, group = float("inf"), 1, 1
    end = time.perf_counter() + budget
    while time.perf_counter() < end or i == 1:
        begin = clock()
        for _ in range(group):
            call(i)
            i += 1
        best = min(best, (clock() - begin) / group)
        group = min(64, 2 * group) if best * group < budget / 8 else group
    return best


# ---- one peer, in a process of its own: reads "name" lines, answers JSON lines


def copies_of(m, n, k):
    return 1 if m >= 64 else max(1, min(512, int(128e6 / (4 * n * k))))


def parse_product(name):
    return tuple(int(x) for x in name.split("/")[1].split("x"))


def blas_peer(library, threads):
    paths, symbol = LIBRARIES[library]
    function = None
    for path in paths:
        try:
            function = getattr(ctypes.CDLL(path), symbol)
            break
        except (OSError, AttributeError):
            continue
    if function is None:
        return None
    pointer, cache = ctypes.c_void_p, {}
    numbers = (ctypes.c_float * (49152 * 576))()
    for i in range(0, len(numbers), 4096):
        numbers[i] = 0.25  # zeros and quarters: the time of a product does not depend on its numbers

    def prepare(name):
        m, n, k = parse_product(name)
        if cache.get("shape") != (n, k):
            cache.clear()
            cache.update(shape=(n, k), weights=[])
        while len(cache["weights"]) < copies_of(m, n, k):
            weight = (ctypes.c_float * (n * k))()
            ctypes.memmove(weight, numbers, 4 * n * k)
            cache["weights"].append(weight)
        weights = [ctypes.cast(w, pointer) for w in cache["weights"][:copies_of(m, n, k)]]
        x, y = (ctypes.c_float * (m * k))(), (ctypes.c_float * (m * n))()
        ctypes.memmove(x, numbers, 4 * min(m * k, len(numbers)))
        px, py = ctypes.cast(x, pointer), ctypes.cast(y, pointer)
        one, zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
        if symbol == "cblas_sgemm":
            row_major, as_is, transposed = 101, 111, 112
            return lambda i, keep=(x, y): function(row_major, as_is, transposed, m, n, k, one, px, k, weights[i % len(weights)], k, zero, py, n)
        big = ctypes.c_int64
        arguments = (ctypes.c_char(b"N"), ctypes.c_char(b"T"), big(m), big(n), big(k), one, px, big(k))
        return lambda i, keep=(x, y): function(*arguments, weights[i % len(weights)], big(k), zero, py, big(n))

    return prepare


def torch_peer(threads):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cache = {}

    def product(name):
        m, n, k = parse_product(name)
        mode = name.rsplit("/", 1)[1]
        dtype = torch.bfloat16 if mode == "bf16" else torch.float32
        if cache.get("shape") != (n, k, mode):
            cache.clear()
            cache.update(shape=(n, k, mode), weights=[])
        count = copies_of(m, n, k) * (2 if mode == "bf16" and m < 64 else 1)
        while len(cache["weights"]) < count:
            cache["weights"].append(torch.randn(n, k, dtype=dtype))
        weights, x, y = cache["weights"], torch.randn(m, k, dtype=dtype), torch.empty(m, n, dtype=dtype)
        return lambda i: torch.mm(x, weights[i % count].t(), out=y)

    def with_gradient(make, *leaves):
        def call(_):
            for leaf in leaves:
                leaf.grad = None
            make().sum().backward()
        return call

    def prepare(name):
        if name.startswith("matmul/"):
            return product(name)
        cache.clear()
        if name in ("rms_norm", "softmax"):
            x, gain = torch.randn(131072, 576), torch.ones(576)
            return (lambda i: F.rms_norm(x, (576,), gain, 1e-5)) if name == "rms_norm" else (lambda i: torch.softmax(x, -1))
        if name == "adamw":
            p = torch.randn(20_000_000, requires_grad=True)
            p.grad = torch.randn_like(p) * 1e-3
            optimiser = torch.optim.AdamW([p], lr=1e-4, fused=True)
            return lambda i: optimiser.step()
        if name.startswith("attention/"):
            q, k, v = (torch.randn(1, 9, 1024, 64, requires_grad=True) for _ in range(3))
            causal = "causal" in name
            return with_gradient(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal), q, k, v)
        target = torch.randint(0, 49152, (1024,))
        if name.startswith("cross_entropy"):
            x = torch.randn(1024, 49152, requires_grad=True)
            return with_gradient(lambda: F.cross_entropy(x, target), x)
        weight, x = torch.randn(49152, 576) * 0.02, torch.randn(1024, 576, requires_grad=True)
        return with_gradient(lambda: F.cross_entropy(F.linear(x, weight), target), x)

    def guarded(name):
        if name.startswith("matmul/"):
            return prepare(name)
        call = prepare(name)
        if "gradient" in name or name.startswith("linear"):
            return call

        def without_gradient(i):
            with torch.no_grad():
                call(i)
        return without_gradient

    return guarded


def serve(peer, threads, budget):
    prepare = torch_peer(threads) if peer == "PyTorch" else blas_peer(peer, threads)
    print(json.dumps({"ready": prepare is not None}), flush=True)
    for line in sys.stdin:
        call = prepare(line.strip())
        print(json.dumps({"seconds": fastest(call, threads, budget)}), flush=True)


class Peer:
    def __init__(self, name, python, options):
        self.name = name
        environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads), OPENBLAS_NUM_THREADS=str(options.threads),
                           BLIS_NUM_THREADS=str(options.threads), MKL_NUM_THREADS=str(options.threads))
        self.process = subprocess.Popen([python, os.path.abspath(__file__), "--serve", name, "--threads", str(options.threads), "--budget", str(options.budget)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        answer = self.process.stdout.readline()
        self.ready = bool(answer) and json.loads(answer)["ready"]

    def seconds(self, figure):
        self.process.stdin.write(figure + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["seconds"]

    def takes(self, figure):
        if figure.startswith("matmul/"):
            return figure.endswith("/f32") or (self.name == "PyTorch" and figure.endswith("/bf16"))
        return self.name == "PyTorch" and not figure.startswith("linear_frozen")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def engine_seconds(options, names):
    command = [options.engine, "bench", "--json", "--quiet", "--threads", str(options.threads), "--repeats", "3"]
    for name in names:
        command += ["--only", name]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")
    key = "cpu_seconds_min" if options.threads == 1 else "seconds_min"
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {row["name"]: (row[key], row) for row in rows}


def known_names(options):
    listed = subprocess.run([options.engine, "bench", "--list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[1] for line in listed.splitlines() if len(line.split()) == 2}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "expctr_engine"))
    parser.add_argument("--peer-python", help="interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=0.06, help="seconds a figure of a peer and round")
    parser.add_argument("--only", default="", help="figures whose name contains this")
    parser.add_argument("--json", help="append the JSON lines to this file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.threads, options.budget)
    peers = [Peer(name, sys.executable, options) for name in LIBRARIES]
    if options.peer_python:
        peers.append(Peer("PyTorch", options.peer_python, options))
    peers = [peer for peer in peers if peer.ready]
    known = known_names(options)
    groups = [[name for name in group if options.only in name and name in known] for group in product_names() + [[name] for name in OTHERS]]
    engine, other, details = {}, {}, {}
    for group in filter(None, groups):
        for turn in range(options.rounds):
            def take_engine():
                for name, (seconds, row) in engine_seconds(options, group).items():
                    engine.setdefault(name, []).append(seconds)
                    details[name] = row

            def take_peers():
                for name in group:
                    for peer in peers:
                        if peer.takes(name):
                            other.setdefault((name, peer.name), []).append(peer.seconds(name))

            for take in (take_engine, take_peers) if turn % 2 == 0 else (take_peers, take_engine):
                take()
    for peer in peers:
        peer.close()
    report(options, peers, engine, other, details)


def report(options, peers, engine, other, details):
    out = open(options.json, "a") if options.json else None
    print(f"{options.threads} threads, {options.rounds} rounds; ratio = peer / engine seconds, median of the rounds\n")
    print(f"{'figure':34} {'engine ms':>10} {'share':>6}" + "".join(f" {peer.name:>9}" for peer in peers) + f" {'to f32':>7} {'worst':>6}")
    for name, seconds in engine.items():
        ratios = {peer.name: statistics.median(p / e for p, e in zip(other[name, peer.name], seconds)) for peer in peers if (name, peer.name) in other}
        baseline = None
        if name.startswith("matmul/") and not name.endswith("/f32"):  # against the engine's own packed float32 product
            packed = engine.get("linear_frozen/" + name.split("/")[1] + "/f32")
            if packed:
                baseline = statistics.median(f / e for f, e in zip(packed, seconds))
        row = {"figure": name, "threads": options.threads, "rounds": options.rounds, "seconds": seconds, "of_ceiling": details[name]["of_ceiling"],
               "ceiling_gflops": details[name]["ceiling_gflops"], "ceiling_gbps": details[name]["ceiling_gbps"], "peak_bytes": details[name]["peak_bytes"],
               "ratio": ratios, "ratio_to_own_f32": baseline, "peer_seconds": {peer.name: other[name, peer.name] for peer in peers if (name, peer.name) in other}}
        if out:
            out.write(json.dumps(row) + "\n")
        cells = "".join(f" {ratios[peer.name]:9.2f}" if peer.name in ratios else f" {'-':>9}" for peer in peers)
        share = details[name]["of_ceiling"]
        print(f"{name:34} {1e3 * statistics.median(seconds):10.3f} {share if share is None else round(share, 2)!s:>6}{cells}"
              f" {baseline if baseline is None else round(baseline, 2)!s:>7} {'-' if not ratios else round(min(ratios.values()), 2)!s:>6}".replace("None", "   -"))
    if out:
        out.close()


if __name__ == "__main__":
    main()
