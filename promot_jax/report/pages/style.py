"""The style sheet of the report page."""

from promot_jax.report.charts.palette import Style

_CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f6f4; --card: #ffffff; --ink: #1d2026; --muted: #626873; --rule: #e3e5e9;
  --up: #0b57a4; --down: #b3201b; --wash: #f1f3f6; --note: #8a5a00; --note-wash: #fdf6e7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1115; --card: #171a1f; --ink: #e8eaed; --muted: #9aa1ac; --rule: #2e333b;
    --up: #7db8f7; --down: #ff9a90; --wash: #1f242b; --note: #e8b955; --note-wash: #2a2416;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; text-rendering: optimizeLegibility;
}
main, .top, footer { max-width: 68rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 2.5rem); }
.top { padding-top: clamp(2rem, 6vw, 4.5rem); }
.eyebrow { margin: 0 0 .5rem; color: var(--muted); font-size: .875rem; }
.eyebrow b { color: var(--ink); font-weight: 600; }
h1 {
  margin: 0 0 1.25rem; max-width: 24ch; font-size: clamp(1.75rem, 1.2rem + 2.4vw, 2.75rem);
  font-weight: 650; line-height: 1.12; letter-spacing: -.022em; text-wrap: balance;
}
h2 { margin: 0 0 .25rem; font-size: 1.375rem; font-weight: 650; line-height: 1.25;
  letter-spacing: -.012em; }
h3 { margin: 0; font-size: 1rem; font-weight: 650; line-height: 1.35; }
p { margin: 0 0 .75rem; }
.lede { max-width: 68ch; font-size: 1.0625rem; }
.lede p { margin: 0 0 .6rem; }
.top .say { margin-bottom: 0; font-size: .875rem; }
.say { max-width: 72ch; margin: 0 0 1.25rem; color: var(--muted); font-size: .9375rem; }
.card + .say { margin-top: 2rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 1.5rem 0 0; padding: 0;
  list-style: none; font-size: .9375rem; }
a { color: inherit; text-decoration-color: var(--muted); text-underline-offset: .25em; }
a:hover { text-decoration-color: currentColor; }
:focus-visible { outline: 2px solid var(--up); outline-offset: 2px; border-radius: 3px; }
section { margin: clamp(2.5rem, 6vw, 4rem) 0; }
.note { margin: 1.5rem 0 0; padding: .875rem 1.125rem; border-left: 3px solid var(--note);
  border-radius: 0 6px 6px 0; background: var(--note-wash); font-size: .9375rem; }
.note h2 { font-size: .9375rem; letter-spacing: 0; }
.note ul { margin: 0; padding-left: 1.125rem; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.swatch { display: inline-block; width: .625rem; height: .625rem; margin-right: .45rem;
  border-radius: 2px; background: var(--method); }

.glance { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr));
  gap: 1rem; margin-top: 2.25rem; }
.glance .card { padding: 1.125rem 1.25rem 1.25rem; }
.glance .unit { margin: 0 0 .875rem; color: var(--muted); font-size: .8125rem; }
.glance dl { display: grid; gap: .7rem; margin: 0; }
.glance dl > div { display: grid; grid-template-columns: 1fr auto; gap: .1rem .75rem;
  font-size: .9375rem; }
.glance dt { padding-left: 1.075rem; text-indent: -1.075rem; }
.glance dd { margin: 0; text-align: right; white-space: nowrap; }
.bar { grid-column: 1 / -1; position: relative; height: 5px; border-radius: 3px;
  background: var(--wash); overflow: hidden; }
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--method); }

.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { width: 100%; border-collapse: separate; border-spacing: 0;
  font-size: .9375rem; line-height: 1.4; }
th, td { padding: .5rem .875rem; text-align: right; vertical-align: baseline; font-weight: 400;
  white-space: nowrap; }
th[scope=row], th[scope=rowgroup], thead th:first-child { text-align: left; }
.scores th:first-child { position: sticky; left: 0; z-index: 1; background: var(--card); }
.scores th[scope=row] { min-width: 9.5rem; white-space: normal; }
.scores th small { white-space: nowrap; color: var(--muted);
  font-size: .8125rem; }
thead th { padding-top: 1rem; padding-bottom: .75rem; font-weight: 600; vertical-align: bottom; }
.scores thead th { min-width: 7.5rem; white-space: normal; text-wrap: balance; line-height: 1.25; }
.scores thead .swatch { display: block; width: 1.75rem; height: .25rem; margin: 0 0 .5rem auto; }
tbody tr:first-child > * { border-top: 1px solid var(--rule); }
.scores .family th { padding-top: 1rem; padding-bottom: .25rem; color: var(--muted);
  font-size: .8125rem; font-weight: 600; }
.scores .block th { padding-top: 1.5rem; font-weight: 650; font-size: 1.0625rem; }
.scores .lead th, .scores .lead td { padding-top: .75rem; padding-bottom: .75rem; }
.scores .lead th[scope=row], .scores .lead .mean { font-weight: 650; }
.scores .lead th small { font-weight: 400; }
.scores tr:last-child > * { padding-bottom: .75rem; }
.dev { display: inline-block; min-width: 4.7ch; margin-left: .4ch; color: var(--muted);
  font-size: .875em; }
.change { display: block; font-size: .875rem; }
.wide .change { padding-right: 4.3ch; }
.up { color: var(--up); } .down { color: var(--down); } .same { color: var(--muted); }
.absent { color: var(--muted); }

.figures { columns: 27rem 2; column-gap: 1.25rem; margin-top: 1rem; }
.figures:not(.small) figure { break-inside: avoid; margin-bottom: 1.25rem; }
.figures.small { display: grid; gap: 1.25rem; columns: auto;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr));
  margin-top: 1.25rem; }
figure { display: flex; flex-direction: column; margin: 0; padding: 1.125rem 1.25rem 1.25rem; }
figure img { display: block; width: 100%; max-width: 40rem; height: auto; margin: .75rem auto 0; }
figcaption { order: -1; }
figcaption p { margin: .25rem 0 0; color: var(--muted); font-size: .875rem; line-height: 1.5; }

.samples { display: grid; gap: 1.25rem; }
.samples article { padding: 1.125rem 1.25rem 1.25rem; }
.samples .family { margin-left: .5rem; color: var(--muted); font-size: .875rem; font-weight: 400; }
.sample { display: grid; gap: 1rem 2rem; padding-top: .875rem; }
@media (min-width: 52rem) {
  .sample { grid-template-columns: minmax(0, 1fr) minmax(0, 1.25fr); }
}
.sample + .sample, details .sample { margin-top: .875rem; border-top: 1px solid var(--rule); }
.sample h4 { margin: 0 0 .125rem; color: var(--muted); font-size: .8125rem; font-weight: 600; }
.text { margin: 0 0 .625rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.sample .given { max-height: 15rem; overflow: auto; }
.outputs { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1rem;
  margin: 0; align-content: start; font-size: .9375rem; }
.outputs dt { color: var(--muted); }
.outputs dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 34rem) {
  .scores th small { display: block; }
  .scores th[scope=row] { min-width: 7.5rem; }
  figure { padding: 1rem .75rem; } figcaption { padding: 0 .25rem; }
  th, td { padding-left: .625rem; padding-right: .625rem; }
  .outputs { grid-template-columns: 1fr; gap: 0; } .outputs dd { margin-bottom: .5rem; }
}
.mark { margin-left: .5rem; padding: .05rem .4rem; border-radius: 4px; background: var(--wash);
  color: var(--muted); font-size: .8125rem; white-space: nowrap; }
.mark.leak { background: none; color: var(--down); box-shadow: inset 0 0 0 1px currentColor; }
summary { margin-top: .875rem; color: var(--muted); font-size: .9375rem; cursor: pointer; }
summary:hover { color: var(--ink); }

.stages td:nth-child(-n+3), .stages th:nth-child(-n+3) { text-align: left; white-space: normal;
  min-width: 9rem; }
.stages thead th, .skill thead th { white-space: normal; text-wrap: balance; }
.stages tbody th { min-width: 11rem; }
.stages td:nth-child(5) { white-space: normal; min-width: 5.5rem; }
.run { margin: 1.5rem 0 .75rem; }
.stages tbody tr + tr > * { border-top: 1px solid var(--rule); }
.stages small { color: var(--muted); font-size: .8125rem; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .375rem 1.5rem;
  margin: 1rem 0 0; padding: 1.125rem 1.25rem; font-size: .9375rem; }
.facts dt { color: var(--muted); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: .875em/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: .75rem 0 0; padding: 1rem 1.25rem; overflow-x: auto; background: var(--wash);
  border-radius: 8px; tab-size: 2; }
footer { padding-bottom: 3rem; color: var(--muted); font-size: .875rem; }
@media print {
  body { background: none; } nav { display: none; } section { break-inside: auto; }
  .card, figure { break-inside: avoid; }
}
"""


def style_sheet(styles: dict[str, Style]) -> str:
    """Returns the style sheet; class `m0`, `m1`, … carries the colour of the method in order."""
    light = "\n".join(f".m{i} {{ --method: {s.light}; }}" for i, s in enumerate(styles.values()))
    dark = "\n".join(f".m{i} {{ --method: {s.dark}; }}" for i, s in enumerate(styles.values()))
    return f"{_CSS}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
