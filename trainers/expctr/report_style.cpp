#include "trainers/expctr/report_style.h"

namespace expctr::report {

const std::string_view kStyle = R"css(
:root {
  color-scheme: light dark;
  --paper: #fcfcfb; --card: #ffffff; --ink: #1c2126; --soft: #5b6670; --rule: #dde1e4; --faint: #f2f4f5;
  --good: #17714a; --good-paper: #e4f3ea; --bad: #a8351f; --bad-paper: #fbe9e5; --open: #5b6670; --open-paper: #eef0f2; --accent: #1f5fa8;
  --c0: #1f5fa8; --c1: #c2571a; --c2: #2b7d5b; --c3: #8a4fa3; --c4: #a0771a; --c5: #5b6670;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181b; --card: #1a1f23; --ink: #e6e9eb; --soft: #9aa6af; --rule: #323a41; --faint: #20262b;
    --good: #6cc79b; --good-paper: #17352a; --bad: #f0907c; --bad-paper: #402019; --open: #a5b0b8; --open-paper: #272e34; --accent: #7fb3ec;
    --c0: #7fb3ec; --c1: #f0a066; --c2: #6cc79b; --c3: #c79be0; --c4: #dfba5c; --c5: #a5b0b8;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 44px; }
h1 { font-size: 2rem; line-height: 1.15; letter-spacing: -.015em; margin: 0 0 .5rem; text-wrap: balance; }
h2 { font-size: 1.4rem; line-height: 1.25; letter-spacing: -.01em; margin: 3.2rem 0 .6rem; padding-top: 1.1rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.02rem; margin: 1.7rem 0 .3rem; }
p { max-width: 72ch; margin: .5rem 0; }
.lead { font-size: 1.08rem; max-width: 70ch; }
.muted, .missing, .meaning, .who { color: var(--soft); }
.missing { font-style: italic; }
a { color: var(--accent); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: 0; margin: 1.4rem 0 0; font-size: .92rem; }
.facts { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1px; margin: 1.6rem 0 0; background: var(--card); border: 1px solid var(--rule); border-radius: 6px; overflow: hidden; }
.facts div { background: var(--card); padding: .6rem .85rem; box-shadow: 0 0 0 1px var(--rule); }
.facts dt { font-size: .8rem; color: var(--soft); }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.findings { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 14px; margin-top: 1rem; align-items: start; }
.finding { background: var(--card); border: 1px solid var(--rule); border-top: 3px solid var(--open); border-radius: 6px; padding: .2rem 1rem .6rem; }
.finding.good { border-top-color: var(--good); } .finding.bad { border-top-color: var(--bad); } .finding.plain { border-top-color: var(--accent); }
.finding h3 { margin: .7rem 0 .3rem; }
.finding ul { margin: 0; padding-left: 1.1rem; } .finding li { margin: .45rem 0; font-variant-numeric: tabular-nums; }
.meaning { display: block; font-weight: 400; font-size: .88rem; line-height: 1.4; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: .93rem; line-height: 1.45; }
th, td { text-align: left; vertical-align: top; padding: .55rem .9rem .55rem 0; border-bottom: 1px solid var(--rule); }
thead th { font-size: .8rem; font-weight: 600; color: var(--soft); border-bottom-color: var(--soft); vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.group th { padding-top: 1.5rem; font-size: .98rem; }
.figures th[scope=row] { font-weight: 600; width: 40%; }
.figures tr:not(.group) > * { vertical-align: middle; }
table.plain { width: auto; min-width: min(100%, 560px); }
.verdict { display: inline-block; padding: .05rem .5rem; border-radius: 4px; font-size: .82rem; color: var(--open); background: var(--open-paper); }
.verdict.good { color: var(--good); background: var(--good-paper); } .verdict.bad { color: var(--bad); background: var(--bad-paper); }
.verdict.level { padding: 0; background: none; }
.verdict.plain { color: var(--ink); }
.drawn { padding-left: .9rem; }
.bar { width: 180px; height: 40px; display: block; fill: var(--open); }
.bar text { font-size: 10px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.bar path { fill: none; stroke: var(--open); }
.bar .axis { stroke: var(--rule); } .bar .zero { stroke: var(--ink); stroke-width: 1.2; }
.bar .interval { stroke-width: 5; opacity: .45; } .bar .cap { stroke-width: 1.5; }
.bar.good { fill: var(--good); } .bar.good .interval, .bar.good .cap { stroke: var(--good); }
.bar.bad { fill: var(--bad); } .bar.bad .interval, .bar.bad .cap { stroke: var(--bad); }
.bar.plain { fill: var(--accent); } .bar.plain .interval, .bar.plain .cap { stroke: var(--accent); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap: 22px 26px; margin-top: .8rem; }
figure { margin: 0; display: flex; flex-direction: column; min-width: 0; }
figcaption { font-size: .86rem; line-height: 1.4; color: var(--soft); flex: 1; }
figcaption strong { color: var(--ink); display: block; font-size: .95rem; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 1rem; padding: 0; margin: .35rem 0 0; font-size: .84rem; }
.key { width: 24px; height: 10px; margin-right: .4rem; }
.chart { width: 100%; height: auto; margin-top: .35rem; }
.chart text { font-size: 11.5px; fill: var(--soft); } .tick { font-variant-numeric: tabular-nums; } .chart .label { fill: var(--ink); }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); } .reference { stroke: var(--ink); stroke-dasharray: 4 3; opacity: .65; }
.line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; } .marks { fill: currentColor; } .quiet { opacity: 0; }
.s0 { color: var(--c0); } .s1 { color: var(--c1); } .s2 { color: var(--c2); } .s3 { color: var(--c3); } .s4 { color: var(--c4); } .s5 { color: var(--c5); }
.big strong { font-size: 2rem; letter-spacing: -.02em; }
.examples td { font-size: .9rem; }
.examples td:nth-child(1) { width: 21%; } .examples td:nth-child(2) { width: 15%; } .examples td:nth-child(4) { width: 21%; } .examples td:nth-child(5) { width: 5.5rem; }
.examples dl { margin: .2rem 0 0; font-size: .84rem; line-height: 1.4; } .examples dt { color: var(--soft); margin-top: .2rem; } .examples dd { margin: 0 0 0 .8rem; }
.user { font-variant-numeric: tabular-nums; white-space: nowrap; }
.stages td:nth-child(2) { min-width: 18rem; }
.text { font-size: 1rem; } .before { margin-top: .45rem; color: var(--soft); font-size: .86rem; }
.movement { font-variant-numeric: tabular-nums; margin-bottom: .45rem; } .who { font-size: .82rem; } .movement .who { display: block; } .p { white-space: nowrap; }
.rated { font-weight: 600; } .rated.liked { color: var(--good); } .rated.disliked { color: var(--bad); }
#tools { display: flex; flex-wrap: wrap; gap: .5rem .9rem; align-items: center; margin: 1rem 0 0; font-size: .9rem; } #tools[hidden] { display: none; }
#tools input, #tools select { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--rule); border-radius: 4px; padding: .25rem .5rem; max-width: 100%; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: left; text-decoration: underline dotted; text-underline-offset: 3px; }
th[aria-sort=ascending] button::after { content: " ↑"; } th[aria-sort=descending] button::after { content: " ↓"; }
pre { background: var(--faint); border: 1px solid var(--rule); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto; font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
code { font: .9em ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; margin: .8rem 0; }
footer { margin-top: 3.5rem; padding-bottom: 3rem; color: var(--soft); font-size: .88rem; }
@media (max-width: 720px) {
  header, main, footer { padding-left: 16px; padding-right: 16px; } header { padding-top: 26px; }
  h1 { font-size: 1.55rem; } h2 { margin-top: 2.2rem; }
  .facts { grid-template-columns: repeat(2, 1fr); }
  .chart text { font-size: 12.5px; }
  table, tbody { display: block; width: 100%; }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  thead tr { display: block; }
  tbody tr { display: block; padding: .7rem 0; border-bottom: 1px solid var(--rule); }
  tbody th, tbody td, .stages td:nth-child(n), .figures th[scope=row], .examples td:nth-child(n) { display: block; width: auto; min-width: 0; border: 0; padding: .12rem 0; text-align: left; white-space: normal; }
  td.number { text-align: left; } .figures td.drawn { padding-left: 0; }
  .examples tbody td:nth-child(n) { padding: .3rem 0; }
  td[data-label]::before { content: attr(data-label); display: block; color: var(--soft); font-size: .78rem; }
  .figures td[data-label]::before, table.plain td[data-label]::before, .stages td[data-label]::before { display: inline-block; min-width: 8.5rem; }
  .examples td:nth-child(1)::before { content: none; }
  .stages td:nth-child(2)::before { content: none; }
  .group { padding-bottom: 0; border: 0; }
}
@media print { body { font-size: 11pt; } #tools { display: none; } figure, tr { break-inside: avoid; } }
)css";

const std::string_view kScript = R"js(
(function () {
  "use strict";
  var table = document.querySelector("table.examples"), tools = document.getElementById("tools");
  if (!table || !tools) return;
  var body = table.tBodies[0], rows = Array.from(body.rows);
  var key = function (row, column) {
    var cell = row.cells[column];
    return cell.hasAttribute("data-sort") ? cell.getAttribute("data-sort") : cell.textContent.trim();
  };
  Array.from(table.tHead.rows[0].cells).forEach(function (head, column) {
    if (!head.hasAttribute("data-sortable")) return;
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.appendChild(button);
    button.addEventListener("click", function () {
      var down = head.getAttribute("aria-sort") === "ascending";
      Array.from(table.tHead.rows[0].cells).forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.slice().sort(function (a, b) {
        var x = key(a, column), y = key(b, column);
        if (x === "" || y === "") return (x === "") - (y === "");
        var numbers = isFinite(x) && isFinite(y), order = numbers ? x - y : x.localeCompare(y);
        return down ? -order : order;
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
  var field = function (name, control) {
    var label = document.createElement("label");
    label.append(name + " ", control);
    tools.appendChild(label);
    control.addEventListener("input", filter);
    return control;
  };
  var choice = function (attribute, names) {
    var select = document.createElement("select"), seen = {};
    select.add(new Option("all", ""));
    rows.forEach(function (row) { seen[row.getAttribute(attribute)] = true; });
    Object.keys(seen).sort().forEach(function (value) { if (value) select.add(new Option(names[value] || value, value)); });
    return select;
  };
  var shown = document.createElement("output");
  function filter() {
    var words = search.value.toLowerCase().trim(), count = 0;
    rows.forEach(function (row) {
      var fits = (!label.value || row.dataset.label === label.value) && (!split.value || row.dataset.split === split.value) &&
        (!changed.value || row.dataset.changed === changed.value) && (!words || row.textContent.toLowerCase().indexOf(words) >= 0);
      row.hidden = !fits;
      row.style.display = fits ? "" : "none";
      if (fits) count += 1;
    });
    shown.textContent = count + " of " + rows.length + " shown";
  }
  var input = document.createElement("input");
  input.type = "search";
  input.placeholder = "title, word or user";
  var search = field("Search", input), label = field("Outcome", choice("data-label", {})), split = field("Split", choice("data-split", {})),
    changed = field("Changed by training", choice("data-changed", {}));
  tools.appendChild(shown);
  tools.hidden = false;
  filter();
})();
)js";

}  // namespace expctr::report
