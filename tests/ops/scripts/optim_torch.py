#!/usr/bin/env python3
"""Prints the constants of tests/ops/optim_torch.cpp: PyTorch's optimisers on a table of 6 x 2 and a vector of 3, five steps in float64.

Start p[i] = cos(0.9 i + 0.2); gradient of step t (from 1) g[i] = sin(0.7 i + 1.3 t), the vector's elements counted on from the table's.
Rows with a gradient in step t: (t + r) % 3 != 0 and r > 0; row 0 never has one.
"""
import math

import torch

ROWS, WIDTH, VECTOR, STEPS = 6, 2, 3, 5
N = ROWS * WIDTH


def start(first, n, shape):
    return torch.tensor([math.cos(0.9 * (first + i) + 0.2) for i in range(n)], dtype=torch.float64).reshape(shape)


def gradient(first, n, t, shape):
    return torch.tensor([math.sin(0.7 * (first + i) + 1.3 * t) for i in range(n)], dtype=torch.float64).reshape(shape)


def touched(t):
    return [r for r in range(ROWS) if r > 0 and (t + r) % 3 != 0]


def numbers(tensor):
    return ", ".join(repr(float(v)) for v in tensor.detach().flatten())


def run(make, clip=None, value=None, sparse=False, l2=0.0):
    table = torch.nn.Parameter(start(0, N, (ROWS, WIDTH)))
    vector = torch.nn.Parameter(start(N, VECTOR, (VECTOR,)))
    optimiser = make([table] if sparse else [table, vector])
    norms = []
    for t in range(1, STEPS + 1):
        g = gradient(0, N, t, (ROWS, WIDTH))
        rows = touched(t)
        if sparse:
            table.grad = torch.sparse_coo_tensor(torch.tensor([rows]), g[rows], (ROWS, WIDTH)).coalesce()
        else:
            mask = torch.zeros(ROWS, 1, dtype=torch.float64)
            mask[rows] = 1
            table.grad = g * mask + l2 * table.detach()
            vector.grad = gradient(N, VECTOR, t, (VECTOR,))
        if clip is not None:
            norms.append(torch.nn.utils.clip_grad_norm_([table, vector], clip))
        if value is not None:
            torch.nn.utils.clip_grad_value_([table, vector], value)
        optimiser.step()
    return table, vector, norms


def show(name, table, vector=None, norms=()):
    print(f"  // {name}")
    print(f"  {{{numbers(table)}" + (f", {numbers(vector)}" if vector is not None else "") + "},")
    if norms:
        print(f"  // norms: {', '.join(repr(float(n)) for n in norms)}")


o = torch.optim
print("// torch", torch.__version__)
show("SGD lr .1", *run(lambda p: o.SGD(p, lr=0.1))[:2])
show("SGD lr .1 momentum .9 decay .05", *run(lambda p: o.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05))[:2])
show("SGD lr .1 momentum .9 decay .05 nesterov", *run(lambda p: o.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05, nesterov=True))[:2])
show("Adam lr .01 betas .9 .99 eps 1e-6", *run(lambda p: o.Adam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-6))[:2])
show("AdamW lr .01 betas .9 .99 eps 1e-6 decay .1", *run(lambda p: o.AdamW(p, lr=0.01, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1))[:2])
show("Adam with l2 .02 of the table, norm clipped at 1.5", *run(lambda p: o.Adam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-6), clip=1.5, l2=0.02))
show("Adam, values clipped at .4", *run(lambda p: o.Adam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-6), value=0.4)[:2])
show("SparseAdam lr .01 betas .9 .99 eps 1e-15", run(lambda p: o.SparseAdam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-15), sparse=True)[0])
show("SparseAdam lr .01 betas .9 .99 eps 1e-6", run(lambda p: o.SparseAdam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-6), sparse=True)[0])


def factors(make, steps):
    p = torch.nn.Parameter(torch.zeros(1))
    optimiser = o.SGD([p], lr=1.0)
    schedule = make(optimiser)
    values = []
    for _ in range(steps):
        values.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return ", ".join(repr(v) for v in values)


s = o.lr_scheduler
print("  // cosine to .1 in 8:", factors(lambda x: s.CosineAnnealingLR(x, T_max=8, eta_min=0.1), 9))
print("  // linear to 0 in 8:", factors(lambda x: s.LinearLR(x, start_factor=1.0, end_factor=0.0, total_iters=8), 10))
print("  // step of 3, .5:", factors(lambda x: s.StepLR(x, step_size=3, gamma=0.5), 8))
