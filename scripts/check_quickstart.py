#!/usr/bin/env python3
"""Checks what a finished run of `run expctr` left: scripts/check_quickstart.py <run folder>

Prints one line a check, "ok" or "FAIL" first; exit status 1 when one failed, 2 when the folder holds no finished run.
Python's standard library only.
"""

import html.parser
import json
import math
import pathlib
import re
import sys

FIRST_RATIO_TOLERANCE = 1e-5  # of compute f32 on the CPU
LEAST_DISTINCT = 0.6


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class References(html.parser.HTMLParser):
    """Collects what a browser would fetch, or lead to, outside the file."""

    def __init__(self):
        super().__init__()
        self.outside = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            value = value or ""
            if name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data") and not value.startswith(("#", "data:")):
                self.outside.append(f"<{tag} {name}={value}>")
            if name == "style":
                self.look_at_style(value)

    def handle_data(self, data):
        if self.lasttag in ("style", "script"):
            self.look_at_style(data)

    def look_at_style(self, text):
        self.outside += re.findall(r"@import[^;]*|url\((?!\s*['\"]?(?:#|data:))[^)]*\)|(?:fetch|import|XMLHttpRequest)\s*\(", text)


class Checks:
    def __init__(self):
        self.failed = 0

    def __call__(self, good, what):
        self.failed += not good
        print(("ok    " if good else "FAIL  ") + what)


def check_log(check, log, folds, steps):
    for stage in ("stage1", "stage3"):
        for fold in range(folds):
            records = [r for r in log if r["job"] == stage and r.get("fold") == fold]
            seen = [r["policy_step"] for r in records]
            check(seen == list(range(1, steps + 1)), f"{stage} policy {fold}: steps {seen} of 1 to {steps}, each once and in order")
            missing = sorted({key for r in records for key in ("objective/kl", "objective/scores", "val/ratio", "loss/policy_avg", "loss/value_avg")
                              if not isinstance(r.get(key), (int, float)) or not math.isfinite(r[key])})
            check(not missing, f"{stage} policy {fold}: every record has finite figures" + (f", but for {', '.join(missing)}" if missing else ""))
            worst = max((abs(r["val/ratio"] - 1.0) for r in records if isinstance(r.get("val/ratio"), (int, float))), default=math.inf)
            check(worst <= FIRST_RATIO_TOLERANCE, f"{stage} policy {fold}: first ratio of a step is 1 within {worst:.1e} (allowed {FIRST_RATIO_TOLERANCE:g})")
    for job in ("sft", "stage2-text_free", "stage2-with_text"):
        seen = [r["step"] for r in log if r["job"] == job]
        if job == "sft" and not seen:
            continue  # scorer.type: base
        check(seen == list(range(1, len(seen) + 1)) and bool(seen), f"{job}: {len(seen)} steps, each once and in order")


def check_hashes(check, stages):
    for fold, hashes in enumerate(zip(stages["stage1"]["fresh_hashes"], stages["stage1"]["policy_hashes"], stages["stage3"]["policy_hashes"])):
        check(len(set(hashes)) == 3, f"policy {fold}: fresh {hashes[0][:12]}, after stage 1 {hashes[1][:12]}, after stage 3 {hashes[2][:12]} differ")
    for what, key in (("base weights", "base_hash"), ("scorer", "scorer_hash"), ("text encoder", "encoder_hash"), ("click model", "ctr_hash")):
        found = {name: details[key] for name, details in stages.items() if key in details}
        if key == "scorer_hash" and "sft" in stages:
            found["sft"] = stages["sft"]["adapter_hash"]
        check(len(set(found.values())) == 1, f"{what}: one hash in {', '.join(sorted(found))}: {', '.join(sorted({h[:12] for h in found.values()}))}")


def check_texts(check, records):
    for name, chosen in (("all pairs", records), ("held-out pairs", [r for r in records if r["split"] != "train"])):
        distinct = len({r["explanation"] for r in chosen}) / max(len(chosen), 1)
        check(distinct >= LEAST_DISTINCT, f"{name}: {100 * distinct:.1f} % of {len(chosen)} texts are distinct (at least {100 * LEAST_DISTINCT:.0f} %)")
    moved = sum(r["p_lc"] != r["p_lc_no_text"] for r in records)
    check(2 * moved > len(records), f"the explanation changes p_lc of {moved} of {len(records)} pairs")
    for key in ("p_lc", "p_lc_no_text", "p_ic", "p_id"):
        inside = all(isinstance(r[key], (int, float)) and 0.0 <= r[key] <= 1.0 for r in records)
        check(inside, f"{key} of every pair is a probability")


def check_report(check, path):
    if not path.is_file():
        check(False, "report.html is missing")
        return
    text = path.read_text(encoding="utf-8")
    references = References()
    references.feed(text)
    check(len(text) > 1000 and "</html>" in text, f"report.html is there and whole, {len(text)} characters")
    check(not references.outside, "report.html refers to nothing outside itself" + (f", but for {references.outside[:3]}" if references.outside else ""))


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    run = pathlib.Path(arguments[0])
    try:
        metrics, log, records = read_json(run / "metrics.json"), read_lines(run / "log.jsonl"), read_lines(run / "explanations.jsonl")
        stages = {name: read_json(run / name / "complete.json") for name in ("sft", "stage1", "stage2", "stage3") if (run / name / "complete.json").exists()}
        folds = len(stages["stage1"]["policy_hashes"])
        steps = metrics["train"]["steps"] // (2 * folds)
    except (OSError, ValueError, KeyError) as error:
        print(f"FAIL  {run} holds no finished run: {type(error).__name__}: {error}")
        return 2
    check = Checks()
    check_log(check, log, folds, steps)
    check_hashes(check, stages)
    check_texts(check, records)
    check_report(check, run / "report.html")
    print(f"{check.failed} of the checks failed" if check.failed else "all checks passed")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
