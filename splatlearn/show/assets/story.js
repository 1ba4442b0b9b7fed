// The script of the story's page: a line, walks downhill, a covariance and a picture, computed live in the browser.
//
// All mathematics stands in the first part, free of the page; the tests compare it with the Python functions `Bowl`,
// `hard.gradient`, `hard.paths`, `covariance_matrix` and `planar.gradient`.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);

// ---- mathematics ----

const sum = values => values.reduce((a, b) => a + b, 0);
const line = (() => {
  const {x, y} = DATA.line, n = x.length;
  const mx = sum(x) / n, my = sum(y) / n, xx = sum(x.map(v => v * v)) / n;
  const xy = sum(x.map((v, i) => v * y[i])) / n, yy = sum(y.map(v => v * v)) / n;
  const loss = ([w, b]) => w * w * xx + 2 * w * b * mx + b * b - 2 * w * xy - 2 * b * my + yy;
  const gradient = ([w, b]) => [2 * (w * xx + b * mx - xy), 2 * (w * mx + b - my)];
  const spread = xx - mx * mx, slope = (xy - mx * my) / spread, best = [slope, my - slope * mx];
  const lambda = 1 + xx + Math.sqrt((xx - 1) ** 2 + 4 * mx * mx);   // of the Hessian 2 [[xx, mx], [mx, 1]]
  return {loss, gradient, best, limit: 2 / lambda, low: [-2.6, -7.2], high: [6.6, 9.2], start: [-1, 8]};
})();
const hard = (() => {
  const {bowl, center, wells} = DATA.hard;
  const pulls = p => wells.map(([d, x, y, s]) => {
    const a = [p[0] - x, p[1] - y];
    return {a, s, g: d * Math.exp(-(a[0] * a[0] + a[1] * a[1]) / (2 * s * s))};
  });
  const loss = p => bowl / 2 * ((p[0] - center[0]) ** 2 + (p[1] - center[1]) ** 2) - sum(pulls(p).map(w => w.g));
  const gradient = p => {
    const found = [bowl * (p[0] - center[0]), bowl * (p[1] - center[1])];
    for (const {a, s, g} of pulls(p)) for (const i of [0, 1]) found[i] += g * a[i] / (s * s);
    return found;
  };
  return {loss, gradient, minima: DATA.hard.minima, low: [-4, -4], high: [4, 4], start: [-2.9, 2.6]};
})();
const surfaces = {line, hard};
function walker(kind, rate) {   // a function from (place, gradient) to the next place, with torch's defaults
  let v = [0, 0], m = [0, 0], t = 0;
  const rules = {
    sgd: g => g.map(d => rate * d),
    momentum: g => (v = v.map((old, i) => 0.9 * old + g[i])).map(d => rate * d),
    adam: g => {
      t += 1;
      m = m.map((old, i) => 0.9 * old + 0.1 * g[i]);
      v = v.map((old, i) => 0.999 * old + 0.001 * g[i] * g[i]);
      return m.map((d, i) => rate * d / (1 - 0.9 ** t) / (Math.sqrt(v[i] / (1 - 0.999 ** t)) + 1e-8));
    },
  };
  return (p, g) => { const move = rules[kind](g); return [p[0] - move[0], p[1] - move[1]]; };
}
function walk(surface, kind, rate, start, steps) {
  const path = [start], next = walker(kind, rate);
  for (let i = 0; i < steps; i++) path.push(next(path[i], surfaces[surface].gradient(path[i])));
  return path;
}
function covariance(s1, s2, angle) {   // R diag(s1², s2²) Rᵀ as [xx, xy, yy]
  const c = Math.cos(angle), s = Math.sin(angle), a = s1 * s1, b = s2 * s2;
  return [c * c * a + s * s * b, c * s * (a - b), s * s * a + c * c * b];
}
function planar(rows, target, height, width) {   // rows of 8: x, y, log s1, log s2, angle, r, g, b
  const count = rows.length / 8, size = height * width;
  const image = new Float64Array(3 * size), bumps = new Float32Array(count * size);
  const slopes = new Float64Array(rows.length);
  const each = (k, visit) => {
    const [x, y, l1, l2, angle] = rows.subarray(8 * k, 8 * k + 5);
    const c = Math.cos(angle), s = Math.sin(angle), s1 = Math.exp(l1), s2 = Math.exp(l2);
    for (let i = 0, at = 0; i < height; i++) for (let j = 0; j < width; j++, at++) {
      const dx = (j + 0.5) / height - x, dy = (i + 0.5) / height - y;
      visit(at, (dx * c + dy * s) / s1, (dy * c - dx * s) / s2);
    }
    return [c, s, s1, s2];
  };
  for (let k = 0; k < count; k++) {
    const [r, g, b] = rows.subarray(8 * k + 5, 8 * k + 8);
    each(k, (at, u, v) => {
      const power = (u * u + v * v) / 2;
      if (power > 30) return;   // less than 1e-13 of the peak
      const bump = Math.exp(-power);
      bumps[k * size + at] = bump;
      image[3 * at] += bump * r; image[3 * at + 1] += bump * g; image[3 * at + 2] += bump * b;
    });
  }
  let loss = 0;
  const e = new Float64Array(3 * size);
  for (let i = 0; i < 3 * size; i++) {
    const residual = image[i] - target[i];
    loss += residual * residual / (3 * size); e[i] = 2 * residual / (3 * size);
  }
  for (let k = 0; k < count; k++) {
    const [r, g, b] = rows.subarray(8 * k + 5, 8 * k + 8);
    let hu = 0, hv = 0, huu = 0, hvv = 0, huv = 0, er = 0, eg = 0, eb = 0;
    const [c, s, s1, s2] = each(k, (at, u, v) => {
      const bump = bumps[k * size + at];
      if (bump === 0) return;
      const h = bump * (e[3 * at] * r + e[3 * at + 1] * g + e[3 * at + 2] * b);
      hu += h * u; hv += h * v; huu += h * u * u; hvv += h * v * v; huv += h * u * v;
      er += bump * e[3 * at]; eg += bump * e[3 * at + 1]; eb += bump * e[3 * at + 2];
    });
    const turned = huv * (s1 / s2 - s2 / s1);
    slopes.set([hu * c / s1 - hv * s / s2, hu * s / s1 + hv * c / s2, huu, hvv, turned, er, eg, eb], 8 * k);
  }
  return {image, loss, slopes};
}

// ---- drawing ----

const $ = id => document.getElementById(id);
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const MAP = [[0, 32, 77], [60, 77, 110], [124, 123, 120], [187, 175, 113], [253, 231, 55]];   // near to cividis
function shade(share) {
  const at = Math.min(Math.max(share, 0), 0.9999) * 4, i = Math.floor(at), f = at - i;
  return MAP[i].map((v, c) => v + f * (MAP[i + 1][c] - v));
}
class Plot {
  constructor(id, low, high, ratio) {
    Object.assign(this, {canvas: $(id), low, high, ratio, backdrop: null});
    this.pen = this.canvas.getContext("2d");
    this.fitted();
  }
  fitted() {
    const wide = Math.max(1, this.canvas.clientWidth), scale = window.devicePixelRatio || 1;
    this.wide = wide; this.tall = wide * this.ratio;
    this.canvas.style.height = this.tall + "px";
    this.canvas.width = Math.round(wide * scale); this.canvas.height = Math.round(this.tall * scale);
    this.pen.setTransform(scale, 0, 0, scale, 0, 0);
  }
  at([x, y]) {
    const {low, high, wide, tall} = this;
    return [(x - low[0]) / (high[0] - low[0]) * wide, (high[1] - y) / (high[1] - low[1]) * tall];
  }
  back([px, py]) {
    const {low, high, wide, tall} = this;
    return [low[0] + px / wide * (high[0] - low[0]), high[1] - py / tall * (high[1] - low[1])];
  }
  clear() { this.pen.clearRect(0, 0, this.wide, this.tall); }
  path(points, stroke, width, dash = []) {
    const pen = this.pen;
    pen.beginPath(); points.forEach((p, i) => pen[i ? "lineTo" : "moveTo"](...this.at(p)));
    pen.strokeStyle = stroke; pen.lineWidth = width; pen.lineJoin = "round";
    pen.setLineDash(dash); pen.stroke(); pen.setLineDash([]);
  }
  dot(point, radius, fill, edge) {
    const pen = this.pen;
    pen.beginPath(); pen.arc(...this.at(point), radius, 0, 7); pen.fillStyle = fill; pen.fill();
    if (edge) { pen.strokeStyle = edge; pen.lineWidth = 2; pen.stroke(); }
  }
  arrow(from, to, stroke) {
    const [a, b] = [this.at(from), this.at(to)], turn = Math.atan2(b[1] - a[1], b[0] - a[0]), pen = this.pen;
    this.path([from, to], stroke, 3);
    pen.beginPath(); pen.moveTo(...b);
    for (const side of [-0.45, 0.45]) pen.lineTo(b[0] - 11 * Math.cos(turn + side), b[1] - 11 * Math.sin(turn + side));
    pen.fillStyle = stroke; pen.fill();
  }
  surface(f, bend) {   // bands of equal loss, drawn once
    if (!this.backdrop) {
      const n = 150, m = Math.round(n * this.ratio), heights = [];
      for (let i = 0; i < m; i++) for (let j = 0; j < n; j++)
        heights.push(f(this.back([(j + 0.5) / n * this.wide, (i + 0.5) / m * this.tall])));
      const least = Math.min(...heights), most = Math.max(...heights);
      this.backdrop = document.createElement("canvas");
      this.backdrop.width = n; this.backdrop.height = m;
      const pen = this.backdrop.getContext("2d"), pixels = pen.createImageData(n, m);
      heights.forEach((h, i) => {
        const share = Math.floor(((h - least) / (most - least)) ** bend * 18) / 18;
        pixels.data.set([...shade(share), 255], 4 * i);
      });
      pen.putImageData(pixels, 0, 0);
    }
    this.pen.imageSmoothingEnabled = true;
    this.pen.drawImage(this.backdrop, 0, 0, this.wide, this.tall);
  }
  drag(move) {   // move(place, first, pixels): dragging anywhere on the canvas
    let down = false;
    const tell = (event, first) => {
      const box = this.canvas.getBoundingClientRect(), pixels = [event.clientX - box.left, event.clientY - box.top];
      move(this.back(pixels), first, pixels);
    };
    this.canvas.addEventListener("pointerdown", event => {
      down = true; this.canvas.setPointerCapture(event.pointerId); tell(event, true); event.preventDefault();
    });
    this.canvas.addEventListener("pointermove", event => { if (down) tell(event, false); });
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => { down = false; });
  }
}
function nearest(plot, pixels, places) {   // which of the places lies nearest to the pointer
  const far = places.map(place => plot.at(place)).map(([x, y]) => Math.hypot(x - pixels[0], y - pixels[1]));
  return far.indexOf(Math.min(...far));
}
const told = (value, digits = 3) => value.toFixed(digits).replace("-", "−");
const redraws = [];

// ---- weight and bias ----

const guess = {at: line.start.slice()};
{
  const points = new Plot("line-points", [-2.4, -6], [4.4, 11], 0.72);
  const bowl = new Plot("line-bowl", line.low, line.high, 0.72);
  const HANDLES = [-1.6, 3.6];
  let held = 0;
  function draw() {
    const [w, b] = guess.at, f = x => w * x + b, slope = line.gradient(guess.at);
    points.clear();
    DATA.line.x.forEach((x, i) => points.path([[x, DATA.line.y[i]], [x, f(x)]], color("--h2") + "66", 1));
    DATA.line.x.forEach((x, i) => points.dot([x, DATA.line.y[i]], 2.2, color("--soft")));
    points.path([[-3, f(-3)], [5, f(5)]], color("--h1"), 3);
    for (const x of HANDLES) points.dot([x, f(x)], 8, color("--card"), color("--h1"));
    bowl.surface(line.loss, 0.45);
    bowl.dot(line.best, 5, "#ffffff");
    const size = Math.hypot(...slope), length = Math.min(2.2, 0.09 * size);
    if (size > 1e-3) bowl.arrow(guess.at, [0, 1].map(i => guess.at[i] - length * slope[i] / size), "#ff9a6b");
    bowl.dot(guess.at, 8, "#ffffff", "#d55e00");
    $("line-w").value = w; $("line-b").value = b;
    $("line-told").textContent = `y = ${told(w)}·x ${b < 0 ? "−" : "+"} ${told(Math.abs(b))}`;
    $("line-loss").textContent = told(line.loss(guess.at), 4);
    $("line-slope").textContent = `${told(slope[0])}, ${told(slope[1])}`;
  }
  points.drag(([x, y], first, pixels) => {
    const f = at => guess.at[0] * at + guess.at[1];
    if (first) held = nearest(points, pixels, HANDLES.map(at => [at, f(at)]));
    const fixed = HANDLES[1 - held], w = (y - f(fixed)) / (HANDLES[held] - fixed);
    guess.at = [w, y - w * HANDLES[held]];
    draw();
  });
  bowl.drag(place => { guess.at = place; draw(); });
  for (const [i, id] of ["line-w", "line-b"].entries())
    $(id).addEventListener("input", event => { guess.at[i] = Number(event.target.value); draw(); });
  $("line-step").addEventListener("click", () => {
    const slope = line.gradient(guess.at); guess.at = guess.at.map((v, i) => v - 0.05 * slope[i]); draw();
  });
  $("line-best").addEventListener("click", () => { guess.at = line.best.slice(); draw(); });
  redraws.push(() => { points.fitted(); bowl.fitted(); draw(); });
}

// ---- walks ----

const walking = {path: [], timer: 0};
{
  const plots = {};
  for (const [name, {low, high}] of Object.entries(surfaces)) plots[name] = new Plot(`walk-${name}`, low, high, 1);
  const starts = {line: line.start.slice(), hard: hard.start.slice()}, paths = {line: [], hard: []};
  let shown = 0;
  const rate = () => 10 ** Number($("walk-rate").value);
  function draw() {
    for (const name of ["line", "hard"]) {
      const plot = plots[name], path = paths[name].slice(0, shown + 1);
      plot.surface(surfaces[name].loss, name === "line" ? 0.45 : 0.8);
      for (const [i, p] of (name === "line" ? [line.best] : hard.minima).entries())
        plot.dot(p, i ? 5 : 7, i ? "#d55e00" : "#2ee6a6", "#ffffff");
      if (path.length > 1) plot.path(path, "#ffffff", 2.2);
      plot.dot(starts[name], 6, "#1d1b26", "#ffffff");
      const end = path[path.length - 1] || starts[name];
      plot.dot(end, 6, "#ff9a6b", "#ffffff");
      const verdict = $(`walk-${name}-told`), loss = surfaces[name].loss(end);
      if (!path.length) verdict.textContent = "drag the start";
      else verdict.textContent = shown < 300 ? `step ${shown}: loss ${told(loss, 4)}` : ending(name, end, loss);
    }
    $("walk-rate-told").textContent = rate().toPrecision(2);
    const beyond = rate() > line.limit && $("walk-kind").value === "sgd";
    $("walk-limit").textContent = beyond ? "beyond 2/λmax = " + told(line.limit) + ": on the bowl this diverges" : "";
  }
  function ending(name, end, loss) {
    if (!(loss < 1e3)) return "it diverged";
    const places = name === "line" ? [line.best] : hard.minima;
    const i = places.findIndex(p => Math.hypot(p[0] - end[0], p[1] - end[1]) < 0.15);
    const best = name === "line" ? "least squares reached" : "the global minimum";
    const found = i === 0 ? best : i > 0 ? "trapped in a local minimum" : "not there yet";
    return `${found}, loss ${told(loss, 4)}`;
  }
  function advance() {
    shown = Math.min(300, shown + 2); draw();
    if (shown < 300) walking.timer = requestAnimationFrame(advance);
  }
  function go() {
    cancelAnimationFrame(walking.timer);
    for (const name of ["line", "hard"]) paths[name] = walk(name, $("walk-kind").value, rate(), starts[name], 300);
    walking.path = paths; shown = 0; advance();
  }
  function rest() {
    cancelAnimationFrame(walking.timer); for (const name of ["line", "hard"]) paths[name] = []; shown = 0; draw();
  }
  for (const name of ["line", "hard"]) plots[name].drag(place => { starts[name] = place; rest(); });
  $("walk-go").addEventListener("click", go);
  for (const id of ["walk-kind", "walk-rate"]) $(id).addEventListener("input", rest);
  redraws.push(() => { plots.line.fitted(); plots.hard.fitted(); draw(); });
  walking.starts = starts;
}

// ---- a covariance ----

const shape = {s1: 1.1, s2: 0.5, angle: 0.5};
{
  const plot = new Plot("shape", [-2.6, -1.9], [2.6, 1.9], 0.73);
  let held = 0;
  const tips = () => {
    const c = Math.cos(shape.angle), s = Math.sin(shape.angle);
    return [[shape.s1 * c, shape.s1 * s], [-shape.s2 * s, shape.s2 * c]];
  };
  function draw() {
    const n = 120, m = Math.round(n * plot.ratio);
    const [xx, xy, yy] = covariance(shape.s1, shape.s2, shape.angle), det = xx * yy - xy * xy;
    const small = document.createElement("canvas"); small.width = n; small.height = m;
    const pen = small.getContext("2d"), pixels = pen.createImageData(n, m);
    for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) {
      const [x, y] = plot.back([(j + 0.5) / n * plot.wide, (i + 0.5) / m * plot.tall]);
      const square = (yy * x * x - 2 * xy * x * y + xx * y * y) / det;
      pixels.data.set([...shade(Math.exp(-square / 2)), 255], 4 * (i * n + j));
    }
    pen.putImageData(pixels, 0, 0); plot.pen.drawImage(small, 0, 0, plot.wide, plot.tall);
    const [a, b] = tips();
    for (const ring of [1, 2]) {
      const points = [];
      for (let i = 0; i <= 90; i++) {
        const c = ring * Math.cos(i * Math.PI / 45), s = ring * Math.sin(i * Math.PI / 45);
        points.push([c * a[0] + s * b[0], c * a[1] + s * b[1]]);
      }
      plot.path(points, "#ffffff", ring === 1 ? 2 : 1, ring === 1 ? [] : [5, 4]);
    }
    plot.path([[0, 0], a], "#ff9a6b", 2.5); plot.path([[0, 0], b], "#ffd9b8", 2.5);
    plot.dot(a, 8, "#ff9a6b", "#ffffff"); plot.dot(b, 8, "#ffd9b8", "#ffffff");
    $("shape-xx").textContent = told(xx); $("shape-yy").textContent = told(yy);
    for (const id of ["shape-xy", "shape-yx"]) $(id).textContent = told(xy);
    const degrees = told(shape.angle * 180 / Math.PI, 0);
    $("shape-told").textContent = `σ₁ ${told(shape.s1, 2)}, σ₂ ${told(shape.s2, 2)}, angle ${degrees}°`;
  }
  plot.drag(([x, y], first, pixels) => {
    if (first) held = nearest(plot, pixels, tips());
    const length = Math.min(2.2, Math.max(0.06, Math.hypot(x, y)));
    shape.angle = Math.atan2(y, x) - (held ? Math.PI / 2 : 0);
    shape.angle = Math.atan2(Math.sin(shape.angle), Math.cos(shape.angle));
    shape[held ? "s2" : "s1"] = length;
    draw();
  });
  redraws.push(() => { plot.fitted(); draw(); });
}

// ---- a picture ----

const learner = {};
{
  const {height, width, pixels, rows, rates} = DATA.planar;
  const target = Float64Array.from(atob(pixels), c => c.charCodeAt(0) / 255);
  const screens = ["fit-render", "fit-shapes", "fit-target"].map($);
  let running = 0;
  function reset() {
    const [first, second] = [0, 1].map(() => new Float64Array(8 * rows.length));
    Object.assign(learner, {rows: Float64Array.from(rows.flat()), step: 0, first, second});
    learner.now = planar(learner.rows, target, height, width); draw();
  }
  function advance() {   // a step of Adam
    learner.step += 1;
    const {slopes} = learner.now, t = learner.step;
    for (let i = 0; i < slopes.length; i++) {
      learner.first[i] += 0.1 * (slopes[i] - learner.first[i]);
      learner.second[i] += 0.001 * (slopes[i] ** 2 - learner.second[i]);
      const size = Math.sqrt(learner.second[i] / (1 - 0.999 ** t)) + 1e-8;
      learner.rows[i] -= rates[i % 8] * learner.first[i] / (1 - 0.9 ** t) / size;
    }
    learner.now = planar(learner.rows, target, height, width); draw();
  }
  function blit(canvas, values) {
    canvas.width = width; canvas.height = height;
    const pen = canvas.getContext("2d"), data = pen.createImageData(width, height);
    for (let i = 0; i < height * width; i++)
      data.data.set([...values.subarray(3 * i, 3 * i + 3)].map(v => 255 * v).concat(255), 4 * i);
    pen.putImageData(data, 0, 0);
  }
  function draw() {
    blit(screens[0], learner.now.image);
    const canvas = screens[1], scale = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale; canvas.height = canvas.width * height / width;
    const pen = canvas.getContext("2d"), unit = canvas.height;
    for (let k = 0; k < learner.rows.length / 8; k++) {
      const [x, y, l1, l2, angle, r, g, b] = learner.rows.subarray(8 * k, 8 * k + 8);
      pen.beginPath(); pen.ellipse(x * unit, y * unit, Math.exp(l1) * unit, Math.exp(l2) * unit, angle, 0, 7);
      pen.fillStyle = `rgba(${[r, g, b].map(v => Math.round(255 * Math.min(1, Math.max(0, v)))).join()},.55)`;
      pen.fill();
      pen.strokeStyle = color("--soft"); pen.lineWidth = 0.6; pen.stroke();
    }
    $("fit-told").textContent = `step ${learner.step}: loss ${learner.now.loss.toFixed(5)}`;
  }
  function loop() { if (running) { advance(); requestAnimationFrame(loop); } }
  $("fit-go").addEventListener("click", () => {
    running = !running; $("fit-go").textContent = running ? "Pause" : "Learn"; loop();
  });
  $("fit-reset").addEventListener("click", () => { running = 0; $("fit-go").textContent = "Learn"; reset(); });
  blit(screens[2], target);
  redraws.push(draw);
  reset();
  Object.assign(learner, {target, height, width});
}

const refresh = () => redraws.forEach(redraw => redraw());
new ResizeObserver(refresh).observe(document.querySelector("main"));   // also the first layout, whenever it comes
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
window.story = {line, hard, walk, covariance, planar, guess, walking, shape, learner};
