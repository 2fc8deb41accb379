"""How a report looks: colours for light and dark, and room for narrow screens."""

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c2430; --soft: #5b6675; --line: #dde2e9;
  --box: #f5f7fa; --accent: #1f5fbf; --other: #9aa5b4; --control: #b3541e; --on: #fff }
@media (prefers-color-scheme: dark) { :root { --ground: #14181f; --text: #e3e8ef; --soft: #98a3b3;
  --line: #2d3643; --box: #1c222c; --accent: #6ea8fe; --other: #66717f; --control: #f0a068; --on: #10151c } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--ground);
  color: var(--text); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  overflow-wrap: break-word }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; line-height: 1.2 }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line) }
.lead p { margin: .2rem 0 }
.note, figcaption { color: var(--soft); font-size: .85rem }
a { color: var(--accent) }
ul { padding-left: 1.2rem }
li { margin: .2rem 0 }
.wide { overflow-x: auto; margin: .6rem 0 }
figure { margin: .6rem 0 }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem .3rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap }
th { font-weight: 600 }
.t { text-align: left }
td.t:last-child { white-space: normal; min-width: 12rem }
pre { background: var(--box); padding: .7rem .9rem; border-radius: 6px; overflow-x: auto; font-size: .83rem;
  margin: .6rem 0 }
details { margin: .5rem 0; padding: .4rem .8rem; background: var(--box); border-radius: 6px }
details pre { background: var(--ground) }
summary { cursor: pointer; padding: .15rem 0 }
details:has(:target) { outline: 2px solid var(--accent) }
svg { display: block; max-width: 100%; height: auto;
  font: 12px system-ui, "DejaVu Sans", sans-serif }
svg text { fill: var(--soft) }
.label { font-weight: 600 }
svg .name { fill: var(--accent); font-weight: 700; font-size: 13px }
svg .key.on { fill: var(--accent) }
svg .key.other { fill: var(--other) }
svg .key.control { fill: var(--control) }
.grid { stroke: var(--line) }
.axis { stroke: var(--soft) }
.dot { fill: var(--other) }
.dot.on { fill: var(--accent); stroke: var(--ground) }
.dot.control { fill: none; stroke: var(--control); stroke-width: 1.6 }
.dot.control.on { fill: var(--control); stroke: var(--ground) }
.dot.on.open { fill: var(--ground); stroke: var(--accent); stroke-width: 2 }
.dot.control.on.open { stroke: var(--control) }
a:hover .dot, .dot:hover { stroke: var(--text); stroke-width: 2 }
.stairs { fill: none; stroke: var(--accent); stroke-width: 1.8 }
.error { fill: none; stroke: var(--accent); stroke-width: 1.3 }
.course { fill: none; stroke: var(--other); stroke-opacity: .45 }
.course.on { stroke: var(--accent); stroke-opacity: .9; stroke-width: 2 }
.course:hover { stroke: var(--text); stroke-opacity: 1; stroke-width: 3 }
.heat { fill: var(--accent) }
.heat.none { fill: var(--box) }
svg .cell { fill: var(--text); pointer-events: none }
svg .cell.dark { fill: var(--on) }
.bar { fill: var(--accent) }
.bar.faint { fill-opacity: .3 }
@media (max-width: 40rem) { .plot { font-size: 18px } .plot .name { font-size: 20px } }
@media print { details { break-inside: avoid } }
"""
