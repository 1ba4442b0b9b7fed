"""The look of the report: a style sheet, a small script and the frame around them, nothing from a network."""

import html

# the browser is told to load nothing but what is inside the page
POLICY = "default-src 'none'; img-src data: blob:; media-src data:; worker-src blob:; "
POLICY += "style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:"

STYLE = """
:root { color-scheme: light dark; --paper: #f6f5f1; --card: #fffefc; --ink: #1d1b26; --soft: #6a6676;
  --rule: #e5e2da; --accent: #5a48d6; --h1: #5a48d6; --h2: #c8552b; --h3: #12866f; --h4: #b13a78;
  --blob1: #ffd9b8aa; --blob2: #d5ccffb0; --blob3: #bfeee0a0;
  --shadow: 0 1px 2px #1d1b2610, 0 8px 28px #1d1b260d; }
@media (prefers-color-scheme: dark) { :root { --paper: #121118; --card: #1b1a23; --ink: #eeedf4;
  --soft: #a09cb0;
  --rule: #2d2b38; --accent: #a99dff; --h1: #a99dff; --h2: #ff9a6b; --h3: #4fd0b3; --h4: #f58fc0;
  --blob1: #7a3d1c55; --blob2: #43329966; --blob3: #14594b55; --shadow: 0 0 0 1px #ffffff08; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55; font-size: 16px;
  font-family: ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial,
  sans-serif; }
.top::before { content: ""; position: absolute; inset: 0 0 auto; height: 36rem; z-index: -1;
  -webkit-mask-image: linear-gradient(#000, transparent); mask-image: linear-gradient(#000, transparent);
  background: radial-gradient(38rem 20rem at 8% 0%, var(--blob1), transparent 70%),
  radial-gradient(44rem 26rem at 62% -12%, var(--blob2), transparent 70%),
  radial-gradient(34rem 22rem at 100% 38%, var(--blob3), transparent 70%); }
main, .top > div { max-width: 1120px; margin: 0 auto; padding: 0 28px; }
.top > div { padding-top: 56px; padding-bottom: 12px; }
.hero { display: grid; gap: 40px; align-items: center; }
.eyebrow { margin: 0; font-size: 13px; letter-spacing: .09em; text-transform: uppercase; color: var(--accent);
  font-weight: 650; }
h1 { margin: 6px 0 8px; font-size: clamp(32px, 5vw, 50px); line-height: 1.08; letter-spacing: -.025em;
  overflow-wrap: anywhere; }
h2 { margin: 56px 0 4px; font-size: 23px; letter-spacing: -.012em; }
h2 + p { margin: 0 0 18px; color: var(--soft); max-width: 46em; }
.lead { margin: 0 0 26px; font-size: 18px; color: var(--soft); max-width: 36em; }
.card, .chart, .tile, .view { background: var(--card); border-radius: 16px; box-shadow: var(--shadow); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tile { padding: 14px 18px 13px; }
.tile span { display: block; font-size: 13px; color: var(--soft); }
.tile b { display: block; font-size: 29px; line-height: 1.25; letter-spacing: -.02em; font-weight: 680;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile b small { font-size: 15px; font-weight: 500; color: var(--soft); letter-spacing: 0; margin-left: 3px; }
.tile i { font-style: normal; font-size: 12.5px; line-height: 1.35; color: var(--soft); display: block; }
.tile.best b { color: var(--accent); }
.key { white-space: nowrap; } .key::before { content: ""; display: inline-block; width: 11px; height: 11px;
  border-radius: 3px; margin: 0 6px 0 10px; background: var(--c); }
.remark { margin: 14px 0 0; color: var(--soft); max-width: 40em; font-size: 15px; }
.screen { margin: 0; text-align: center; }
.screen video, .screen img { display: block; margin: 0 auto; max-width: 100%; max-height: 560px;
  border-radius: 18px; box-shadow: 0 2px 6px #0002, 0 24px 60px #0003; background: #000; }
.screen figcaption, .view figcaption { font-size: 13px; color: var(--soft); }
.screen figcaption { margin-top: 12px; }
@media (min-width: 900px) { .hero { grid-template-columns: minmax(0, 11fr) minmax(0, 12fr); } }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr)); gap: 16px; }
.chart { margin: 0; padding: 16px 20px 38px; min-width: 0; display: flex; flex-direction: column;
  justify-content: space-between; }
.hue1 { --c: var(--h1); } .hue2 { --c: var(--h2); } .hue3 { --c: var(--h3); } .hue4 { --c: var(--h4); }
.chart figcaption { display: grid; grid-template-columns: 1fr auto; align-items: baseline; column-gap: 12px; }
.chart output { font-size: 19px; font-weight: 660; color: var(--c); font-variant-numeric: tabular-nums; }
.chart small { grid-column: 1 / -1; color: var(--soft); font-size: 12.5px; }
.plot { position: relative; height: 190px; margin: 16px 6px 0 46px; touch-action: pan-y; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot svg * { vector-effect: non-scaling-stroke; fill: none; }
.plot:focus-visible { outline: 3px solid var(--accent); outline-offset: 6px; border-radius: 4px; }
.grid path { stroke: var(--rule); stroke-width: 1; }
.line { stroke: var(--c); stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.raw { stroke: var(--c); stroke-width: 1; opacity: .3; stroke-linejoin: round; }
.plot svg .area { fill: var(--c); opacity: .09; }
.dots path { stroke: var(--c); stroke-width: 7; stroke-linecap: round; }
.y span, .x span { position: absolute; font-size: 11.5px; color: var(--soft);
  font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.y span { right: calc(100% + 9px); transform: translateY(-50%); }
.x span { top: calc(100% + 7px); transform: translateX(-50%); }
.cursor { position: absolute; width: 11px; height: 11px; margin: -5.5px; border-radius: 50%;
  background: var(--c);
  border: 2px solid var(--card); opacity: 0; pointer-events: none; }
.views { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--least)), 1fr)); }
.view { margin: 0; padding: 10px 10px 9px; min-width: 0; }
.view div { overflow-x: auto; border-radius: 9px; }
.view img { display: block; width: 100%; min-width: min(var(--narrow), 200vw); height: auto;
  cursor: zoom-in; }
.view figcaption { display: flex; justify-content: space-between; gap: 12px; padding: 8px 6px 0; }
.view figcaption span:first-child { overflow-wrap: anywhere; }
.card { padding: 6px 22px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 9px 16px 9px 0; border-top: 1px solid var(--rule); vertical-align: top; }
tr:first-child > * { border-top: 0; }
th { font-weight: 500; color: var(--soft); white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; padding-right: 0; padding-left: 16px; }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); gap: 16px;
  align-items: start; }
.more { margin-top: 32px; }
.lead b { color: var(--ink); white-space: nowrap; }
details { margin-top: 16px; } summary { cursor: pointer; padding: 10px 0; font-weight: 560; }
pre { margin: 0 0 12px; overflow-x: auto; font-size: 13px; line-height: 1.6; }
pre, code { font-family: ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas,
  monospace; }
.next { display: grid; gap: 14px; padding: 18px 22px; margin: 18px 0 0; }
.next p { margin: 0 0 5px; color: var(--soft); font-size: 14.5px; }
.next code { display: block; overflow-x: auto; background: var(--paper); border-radius: 9px;
  padding: 9px 13px;
  font-size: 13.5px; white-space: pre; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 3px; }
footer { color: var(--soft); font-size: 13px; margin: 60px auto 46px; text-align: center; }
dialog { border: 0; padding: 0; background: none; max-width: 100vw; max-height: 100vh; margin: auto;
  overflow: auto; }
dialog::backdrop { background: #0c0b10e8; } dialog img { display: block; cursor: zoom-out; max-width: none;
  width: max(98vw, 900px); }
@media (max-width: 560px) { main, .top > div { padding: 0 16px; } .top > div { padding-top: 34px; }
  .tiles { grid-template-columns: 1fr 1fr; } .note { display: none; } .tile { padding: 12px 14px; }
  .tile b { font-size: 25px; }
  .lead { font-size: 16.5px; } h2 { margin-top: 44px; } .card { padding: 4px 16px; } }
@media print { .cursor, dialog { display: none; } .tile, .chart, .view { break-inside: avoid; } }
"""

SCRIPT = """
for (const chart of document.querySelectorAll("[data-curve]")) {
  const points = JSON.parse(chart.dataset.curve), plot = chart.querySelector(".plot");
  const value = chart.querySelector("output"), cursor = chart.querySelector(".cursor"),
  last = value.textContent;
  const show = point => {
    cursor.style.cssText = `left:${100 * point[0]}%;top:${100 * point[1]}%;opacity:1`;
    value.textContent = `${point[3]} at ${point[2]}`;
  };
  const leave = () => { cursor.style.opacity = 0; value.textContent = last; at = points.length - 1; };
  let at = points.length - 1;
  plot.addEventListener("pointermove", event => {
    const box = plot.getBoundingClientRect(), across = (event.clientX - box.left) / box.width;
    let best = points[0];
    for (const point of points) if (Math.abs(point[0] - across) < Math.abs(best[0] - across)) best = point;
    show(best);
  });
  plot.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -points.length, End: points.length }[event.key];
    if (!step) return;
    at = Math.min(points.length - 1, Math.max(0, at + step));
    show(points[at]);
    event.preventDefault();
  });
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
}
const dialog = document.querySelector("dialog"), large = dialog.querySelector("img");
for (const image of document.querySelectorAll(".view img"))
  image.addEventListener("click", () => { large.src = image.src; large.alt = image.alt; dialog.showModal();
  });
dialog.addEventListener("click", () => dialog.close());
"""


def page(title: str, top: str, body: str, style: str = "", script: str = "") -> str:
    """A whole HTML document; `title` is plain text, `top` (the hero) and `body` are HTML; style, script are added."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">
<title>{html.escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<header class="top"><div>{top}</div></header>
<main>{body}</main>
<footer>Made by splatlearn. This page holds all it shows and loads nothing.</footer>
<dialog aria-label="Enlarged picture"><img alt=""></dialog>
<script>{SCRIPT}{script}</script>
</body>
</html>
"""
