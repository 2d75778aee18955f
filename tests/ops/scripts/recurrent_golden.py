#!/usr/bin/env python3
"""Writes tests/ops/recurrent_golden.h: what torch.nn.GRU and torch.nn.LSTM give for packed sequences, and their gradients.

Parameters, inputs and cotangents follow the formula `value(i, seed)` below, so that only results are kept; tests/ops/recurrent_golden.cpp has the same formula.
Usage: recurrent_golden.py > tests/ops/recurrent_golden.h
"""
import torch

BATCH, TIME, WIDTH, HIDDEN = 3, 4, 3, 2
LENGTHS = [4, 1, 3]


def value(shape, seed):
    n = 1
    for extent in shape:
        n *= extent
    # Multiples of 1/16 in [-1, 1): exact in every precision.
    return torch.tensor([((i * 37 + seed * 101) % 32 - 16) / 16 for i in range(n)], dtype=torch.float64).reshape(shape)


def run(kind):
    layer = getattr(torch.nn, kind)(WIDTH, HIDDEN, batch_first=True, dtype=torch.float64)
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    with torch.no_grad():
        for seed, name in enumerate(names):
            getattr(layer, name).copy_(value(getattr(layer, name).shape, seed + 1))
    x, h0, c0 = value((BATCH, TIME, WIDTH), 5), value((1, BATCH, HIDDEN), 6), value((1, BATCH, HIDDEN), 7)
    for tensor in (x, h0, c0):
        tensor.requires_grad_()
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    out, last = layer(packed, (h0, c0) if kind == "LSTM" else h0)
    states, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=TIME)
    h, c = last if kind == "LSTM" else (last, None)
    loss = (states * value(states.shape, 8)).sum() + (h * value(h.shape, 9)).sum()
    if c is not None:
        loss = loss + (c * value(c.shape, 10)).sum()
    loss.backward()
    results = [states, h] + ([c] if c is not None else []) + [x.grad] + [getattr(layer, name).grad for name in names] + [h0.grad]
    return results + ([c0.grad] if c is not None else [])


def main():
    print("// Results of torch.nn.GRU and torch.nn.LSTM in float64 (torch " + torch.__version__.split("+")[0] + "), written by tests/ops/scripts/recurrent_golden.py:")
    print("// states, last state (and cell), then gradients of x, weight_ih, weight_hh, bias_ih, bias_hh, initial state (and cell).")
    print("#pragma once\n\n#include <vector>\n\nnamespace expctr::test {\n")
    for kind in ("GRU", "LSTM"):
        print(f"inline const std::vector<std::vector<double>> torch_{kind.lower()} = {{")
        for tensor in run(kind):
            print("    {" + ", ".join(f"{v:.15g}" for v in tensor.detach().flatten().tolist()) + "},")
        print("};\n")
    print("}  // namespace expctr::test")


main()
