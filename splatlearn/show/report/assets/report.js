// The parts of a report that answer: sliders between two pictures, cameras in space, and the scene in its viewer.

for (const figure of document.querySelectorAll(".swipe")) {
  const stage = figure.querySelector(".stage"), slider = figure.querySelector("input");
  slider.addEventListener("input", () => stage.style.setProperty("--at", slider.value + "%"));
  for (const [key, name] of [["error", "erring"], ["wide", "wide"]]) {
    const button = figure.querySelector(`[data-${key}]`);
    button.addEventListener("click", () => button.setAttribute("aria-pressed", figure.classList.toggle(name)));
  }
}

const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = a => { const length = Math.hypot(...a) || 1; return a.map(v => v / length); };
const median = values => values.sort((a, b) => a - b)[values.length >> 1];

for (const box of document.querySelectorAll("[data-space]")) {
  const { cameras, points, up: upward } = JSON.parse(box.dataset.space);
  const canvas = box.querySelector("canvas"), told = box.querySelector("output"), paint = canvas.getContext("2d");
  const up = unit(upward), east = unit(cross(up, Math.abs(up[0]) < 0.9 ? [1, 0, 0] : [0, 0, 1])), north = cross(up, east);
  const subject = points.length ? points : cameras.map(c => c.center);
  const middle = [0, 1, 2].map(i => median(subject.map(p => p[i])));
  const away = cameras.map(c => Math.hypot(...minus(c.center, middle)));
  const near = median(subject.map(p => Math.hypot(...minus(p, middle))));
  const usual = [...away].sort((a, b) => a - b)[away.length >> 1];   // a wrong pose far off must not make all a dot
  const reach = Math.max(...away.filter(a => a <= 10 * usual), near, 1e-6), size = reach * 0.09;
  const first = minus(cameras[0].center, middle);
  const view = { turn: Math.atan2(dot(first, north), dot(first, east)) + 0.6, tilt: 0.5, far: 2.6 * reach };
  let seen = [], chosen = null;

  function draw() {
    const ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    paint.setTransform(ratio, 0, 0, ratio, 0, 0);
    paint.clearRect(0, 0, width, height);
    const level = [0, 1, 2].map(i => Math.cos(view.turn) * east[i] + Math.sin(view.turn) * north[i]);
    const back = [0, 1, 2].map(i => Math.cos(view.tilt) * level[i] + Math.sin(view.tilt) * up[i]);
    const right = unit(cross(up, back)), top = cross(back, right), zoom = 1.1 * Math.min(width, height);
    const place = p => {
      const d = minus(p, middle), depth = view.far - dot(d, back);
      return depth < 0.02 * reach ? null
        : [width / 2 + zoom * dot(d, right) / depth, height / 2 - zoom * dot(d, top) / depth, depth];
    };
    for (const p of points) {
      const at = place(p);
      if (!at) continue;
      const side = Math.min(5, Math.max(1.2, 2.2 * 2.6 * reach / at[2]));
      paint.fillStyle = `rgb(${p[3]},${p[4]},${p[5]})`;
      paint.fillRect(at[0] - side / 2, at[1] - side / 2, side, side);
    }
    const style = getComputedStyle(box);
    seen = [];
    cameras.forEach((camera, index) => {
      const tip = place(camera.center);
      const ends = camera.corners.map(corner => place(camera.center.map((v, i) => v + size * corner[i])));
      if (!tip || ends.some(end => !end)) return;
      const strong = index === chosen;
      paint.strokeStyle = style.getPropertyValue(camera.held ? "--h2" : "--h1");
      paint.lineWidth = strong ? 3 : camera.held ? 1.8 : 1.1;
      paint.beginPath();
      for (const end of ends) { paint.moveTo(tip[0], tip[1]); paint.lineTo(end[0], end[1]); }
      ends.forEach((end, i) => paint[i ? "lineTo" : "moveTo"](end[0], end[1]));
      paint.closePath();
      paint.stroke();
      if (strong) { paint.fillStyle = paint.strokeStyle; paint.globalAlpha = 0.35; paint.fill(); paint.globalAlpha = 1; }
      seen.push([index, (tip[0] + ends[0][0] + ends[2][0]) / 3, (tip[1] + ends[0][1] + ends[2][1]) / 3]);
    });
  }
  function choose(index) {
    const camera = cameras[index];
    chosen = index;
    told.textContent = camera ? `${camera.name}${camera.held ? ", held out" : ""} ${camera.psnr}` : "";
    draw();
  }
  function turn(across, down) {
    view.turn += across;
    view.tilt = Math.min(1.5, Math.max(-1.5, view.tilt + down));
    draw();
  }
  function nearest(event) {
    const frame = canvas.getBoundingClientRect();
    let best = null, least = 18;
    for (const [index, x, y] of seen) {
      const distance = Math.hypot(event.clientX - frame.left - x, event.clientY - frame.top - y);
      if (distance < least) { least = distance; best = index; }
    }
    return best;
  }
  function visit(index) {
    const figure = [...document.querySelectorAll(".swipe")].find(f => f.dataset.view === cameras[index].view);
    for (const other of document.querySelectorAll(".swipe.found")) other.classList.remove("found");
    if (figure && cameras[index].held) {
      figure.classList.add("found");
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
      figure.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "center" });
    }
  }
  let held = null, moved = 0;
  canvas.addEventListener("pointerdown", event => {
    held = [event.clientX, event.clientY];
    moved = 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", event => {
    if (!held) {
      const index = nearest(event);
      if (index !== chosen) choose(index);
      return;
    }
    const across = event.clientX - held[0], down = event.clientY - held[1];
    moved += Math.abs(across) + Math.abs(down);
    held = [event.clientX, event.clientY];
    turn(-across * 0.008, down * 0.008);
  });
  canvas.addEventListener("pointerup", event => {
    held = null;
    const index = moved < 5 ? nearest(event) : null;
    if (index !== null) { choose(index); visit(index); }
  });
  canvas.addEventListener("pointercancel", () => { held = null; });
  canvas.addEventListener("keydown", event => {
    const turns = { ArrowLeft: [0.12, 0], ArrowRight: [-0.12, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    if (turns[event.key]) turn(...turns[event.key]);
    else if (event.key === "+" || event.key === "-") { view.far *= event.key === "+" ? 0.8 : 1.25; draw(); }
    else return;
    event.preventDefault();
  });
  for (const button of box.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => { view.far *= Number(button.dataset.zoom); draw(); });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  box.space = { view, cameras, choose, chosen: () => chosen, seen: () => seen };
}

for (const button of document.querySelectorAll("[data-scene]"))
  button.addEventListener("click", () => {
    const bytes = Uint8Array.from(atob(button.dataset.scene), c => c.charCodeAt(0));
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.title = "the scene";
    frame.style.height = "70vh";
    frame.srcdoc = new TextDecoder().decode(bytes);
    button.replaceWith(frame);
  });
