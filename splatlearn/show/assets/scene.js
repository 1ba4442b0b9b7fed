// The viewer of a page that holds a scene: where one looks from, what mouse, touch and keys do, when a picture is drawn.
//
// `splats.js` draws. Poses are {turn: rows right, down, forward of world to camera, eye}; all vectors are arrays of 3.
"use strict";

// ---- vectors ----

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const plus = (a, b, s = 1) => a.map((v, i) => v + s * b[i]);
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const length = a => Math.hypot(...a), unit = a => a.map(v => v / length(a));
const times = (rows, v) => rows.map(row => dot(row, v));
function about(axis, angle, v) {   // v turned about a unit axis (Rodrigues)
  const c = Math.cos(angle), s = Math.sin(angle);
  return plus(plus(v.map(x => x * c), cross(axis, v), s), axis, dot(axis, v) * (1 - c));
}
function squared([right, down, forward]) {   // rows made orthonormal again, forward kept
  const z = unit(forward), x = unit(plus(right, z, -dot(right, z)));
  return [x, cross(z, x), z];
}

// ---- the page ----

const $ = id => document.getElementById(id);
const canvas = $("scene"), scene = JSON.parse($("told").textContent);
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const MOVING = 250;   // milliseconds after a movement during which a coarser picture is good enough
const viewer = {pose: null, target: null, view: 0, splats: null, pictures: 0, coarse: 1, failed: ""};
let due = false, moved = 0, turning = false, flight = null, before = 0;

const depthRow = ({turn, eye}) => [...turn[2], -dot(turn[2], eye)];
function lens(width, height) {   // of the present view, between wholly seen and filling, as the window is another shape
  const {K: [fx, fy, cx, cy], size: [w, h]} = scene.views[viewer.view];
  const across = width / w, upright = height / h, scale = Math.sqrt(across * upright);
  const centre = [width / 2 + (cx - w / 2) * scale, height / 2 + (cy - h / 2) * scale];
  return {focal: [fx * scale, fy * scale], centre};
}
function fitted() {
  const scale = Math.min(devicePixelRatio || 1, 2) * (performance.now() - moved < MOVING ? viewer.coarse : 1);
  const wide = Math.max(1, Math.round(canvas.clientWidth * scale));
  const tall = Math.max(1, Math.round(canvas.clientHeight * scale));
  if (canvas.width !== wide || canvas.height !== tall) [canvas.width, canvas.height] = [wide, tall];
}
function draw() {
  const {splats, pose} = viewer;
  fitted();
  splats.draw({...pose, shift: times(pose.turn, pose.eye).map(v => -v)}, lens(canvas.width, canvas.height));
  viewer.pictures++;
}
function wake() { if (!due) { due = true; requestAnimationFrame(frame); } }
function frame(now) {
  due = false;
  const moving = now - moved < MOVING, passed = now - before;
  before = now;
  if (flight) flight(now);
  if (turning) swing(-0.00025 * Math.min(passed, 100), 0);
  draw();
  if (moving) requestAnimationFrame(later => paced(later - now));
  if (flight || turning) wake();
  else if (moving && viewer.coarse < 1) setTimeout(wake, MOVING + 20);   // the fine picture at rest
}
function changed() { moved = performance.now(); viewer.splats.sort(depthRow(viewer.pose)); wake(); }

function paced(passed) {   // pictures that take long while moving become coarser, until they are quick again
  if (passed > 50) viewer.coarse = Math.max(0.35, viewer.coarse * Math.max(0.5, Math.sqrt(40 / passed)));
  else if (passed < 20) viewer.coarse = Math.min(1, viewer.coarse * 1.04);
}

// ---- movements ----

function swing(across, upright) {   // radians about the target, to the left around the scene's vertical and upwards
  const {pose, target} = viewer, {up} = scene;
  const [right, , forward] = pose.turn, height = Math.acos(Math.min(1, Math.max(-1, -dot(forward, up))));
  const lift = Math.min(Math.max(height - upright, 0.05), Math.PI - 0.05) - height;
  const level = unit(cross(forward, up)), side = dot(level, right) < 0 ? level.map(v => -v) : level;
  const whole = v => about(up, -across, about(side, lift, v));
  pose.eye = plus(target, whole(plus(pose.eye, target, -1)));
  pose.turn = squared(pose.turn.map(whole));
  changed();
}
function shove(across, upright) {   // pixels of the page, at the target's distance
  const {pose, target} = viewer, {focal} = lens(canvas.clientWidth, canvas.clientHeight);
  const step = length(plus(target, pose.eye, -1)) / focal[0];
  const way = plus(pose.turn[0].map(v => -v * across * step), pose.turn[1], -upright * step);
  pose.eye = plus(pose.eye, way); viewer.target = plus(target, way);
  changed();
}
function near(factor) {   // closer to the target by a factor; past the nearest, the target moves on ahead
  const {pose, target} = viewer, away = plus(pose.eye, target, -1), least = 0.02 * scene.reachable;
  pose.eye = plus(target, away, factor);
  if (length(away) * factor < least) viewer.target = plus(pose.eye, pose.turn[2], least);
  changed();
}
const goal = ({turn, eye, depth}) => ({turn: turn.map(row => [...row]), eye: [...eye], target: plus(eye, turn[2], depth)});
function fly({turn, eye, target}, quick = calm) {
  const from = {turn: viewer.pose.turn, eye: viewer.pose.eye, target: viewer.target}, begin = performance.now();
  flight = now => {
    const t = quick ? 1 : Math.min(1, Math.max(0, (now - begin) / 700)), s = t * t * (3 - 2 * t);
    const mix = (a, b) => plus(a.map(v => v * (1 - s)), b, s);
    viewer.pose = {turn: t === 1 ? turn : squared([mix(from.turn[0], turn[0]), [0, 0, 0], mix(from.turn[2], turn[2])]),
      eye: mix(from.eye, eye)};
    viewer.target = mix(from.target, target);
    if (t === 1) flight = null;
    changed();
  };
  wake();
}
function look(x, y) {   // the nearest solid thing under a place of the page becomes the target
  const {pose, splats: {places}} = viewer, {focal, centre} = lens(canvas.clientWidth, canvas.clientHeight);
  const [right, down, forward] = pose.turn;
  const ray = unit(plus(plus(forward, right, (x - centre[0]) / focal[0]), down, (y - centre[1]) / focal[1]));
  let best = null, least = Infinity;
  for (let i = 0; i < places.length; i += 3) {
    const way = [places[i] - pose.eye[0], places[i + 1] - pose.eye[1], places[i + 2] - pose.eye[2]];
    const along = dot(way, ray);
    if (along <= 0) continue;
    const off = Math.sqrt(Math.max(0, dot(way, way) - along * along)) / along;   // tangent of the angle to the ray
    if (off < 0.1 && along * (1 + 40 * off) < least) { least = along * (1 + 40 * off); best = along; }
  }
  if (best === null) return;
  const target = plus(pose.eye, ray, best);
  fly({turn: squared([pose.turn[0], [0, 0, 0], ray]), eye: plus(pose.eye, ray, 0.3 * best), target});
}
function show(index) {
  const count = scene.views.length;
  viewer.view = (index + count) % count;
  $("which").textContent = `${viewer.view + 1} / ${count}`;
  $("which").title = scene.views[viewer.view].name;
  fly(goal(scene.views[viewer.view]));
}
function stop() {   // whatever moves by itself, as a hand is on it
  turning = false; flight = null;
  $("turn").setAttribute("aria-pressed", "false");
  $("help").classList.add("gone");
}

// ---- mouse, touch, keys ----

const fingers = new Map();
let tapped = 0, tapping = false;   // when a finger last tapped; whether it is fingers that act
function pinch() {
  const [a, b] = [...fingers.values()];
  return {x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.max(1, Math.hypot(a.x - b.x, a.y - b.y))};
}
canvas.addEventListener("pointerdown", event => {
  stop();
  tapping = event.pointerType === "touch";
  canvas.setPointerCapture(event.pointerId);
  const slide = event.button > 0 || event.shiftKey || event.ctrlKey || event.metaKey;
  fingers.set(event.pointerId, {x: event.clientX, y: event.clientY, start: [event.clientX, event.clientY], slide});
});
canvas.addEventListener("pointermove", event => {
  const finger = fingers.get(event.pointerId);
  if (!finger || !viewer.splats) return;
  const earlier = fingers.size === 2 ? pinch() : null, [dx, dy] = [event.clientX - finger.x, event.clientY - finger.y];
  finger.x = event.clientX; finger.y = event.clientY;
  if (earlier) {
    const later = pinch();
    near(earlier.apart / later.apart);
    shove(later.x - earlier.x, later.y - earlier.y);
  } else if (fingers.size === 1) {
    if (finger.slide) shove(dx, dy);
    else {
      const turn = 3.2 / Math.min(canvas.clientWidth, canvas.clientHeight);
      swing(dx * turn, dy * turn);
    }
  }
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, event => {
  const finger = fingers.get(event.pointerId);
  fingers.delete(event.pointerId);
  if (!finger || end === "pointercancel" || event.pointerType !== "touch" || fingers.size || !viewer.splats) return;
  if (Math.hypot(event.clientX - finger.start[0], event.clientY - finger.start[1]) > 6) return;
  if (event.timeStamp - tapped < 350) { look(event.offsetX, event.offsetY); tapped = 0; } else tapped = event.timeStamp;
});
canvas.addEventListener("dblclick", event => {   // of a mouse; not every phone makes one of two taps
  if (!tapping && viewer.splats) look(event.offsetX, event.offsetY);
});
canvas.addEventListener("contextmenu", event => event.preventDefault());
canvas.addEventListener("wheel", event => {
  if (parent !== window && !document.hasFocus()) return;   // a page that scrolls past the scene must not get caught in it
  event.preventDefault();
  if (!viewer.splats) return;
  stop();
  near(Math.exp(Math.min(Math.max(event.deltaY * (event.deltaMode ? 16 : 1), -300), 300) * 0.0015));
}, {passive: false});
const KEYS = {
  ArrowLeft: () => swing(0.08, 0), ArrowRight: () => swing(-0.08, 0), ArrowUp: () => swing(0, 0.08),
  ArrowDown: () => swing(0, -0.08), "+": () => near(0.9), "=": () => near(0.9), "-": () => near(1 / 0.9),
  n: () => show(viewer.view + 1), p: () => show(viewer.view - 1), r: () => show(viewer.view), t: () => $("turn").click(),
};
addEventListener("keydown", event => {
  if (!viewer.splats || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  if (event.key !== "t") stop();
  KEYS[event.key]();
});
$("next").onclick = () => { stop(); show(viewer.view + 1); };
$("previous").onclick = () => { stop(); show(viewer.view - 1); };
$("reset").onclick = () => { stop(); show(viewer.view); };
$("turn").onclick = () => {
  const on = !turning;
  stop();
  turning = on;
  $("turn").setAttribute("aria-pressed", String(on));
  if (on) changed();
};
$("full").hidden = !document.fullscreenEnabled;
$("full").onclick = () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen();
};

// ---- beginning ----

function fail(error) {
  viewer.failed = error.message;
  $("wait").textContent = `The scene cannot be shown. ${error.message}`;
  $("wait").hidden = false;
}
async function begin() {
  if (!window.DecompressionStream) throw new Error("This browser is too old: it lacks DecompressionStream.");
  const bytes = await unpacked($("packed").textContent);
  $("packed").remove();
  const employ = () => {
    viewer.splats?.worker?.terminate();
    viewer.splats = new Splats(canvas, scene, bytes, wake);
  };
  employ();
  canvas.addEventListener("webglcontextlost", event => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => { employ(); changed(); });
  const {target, ...pose} = goal(scene.views[0]);
  viewer.pose = pose; viewer.target = target;
  viewer.splats.sortNow(depthRow(pose));
  draw();
  $("wait").hidden = true;
  document.querySelector(".bar").inert = false;   // from here on there is something to act upon
  new ResizeObserver(wake).observe(canvas);
  viewer.ready = true;
}
// What tests ask for: a view at its own size, sorted at once, as rows of RGB from the top, in base64.
viewer.picture = index => {
  const {K: [fx, fy, cx, cy], size: [w, h], ...view} = scene.views[index], {gl} = viewer.splats, pose = goal(view);
  [canvas.width, canvas.height] = [w, h];
  viewer.splats.sortNow(depthRow(pose));
  viewer.splats.draw({...pose, shift: times(pose.turn, pose.eye).map(v => -v)}, {focal: [fx, fy], centre: [cx, cy]});
  const pixels = new Uint8Array(4 * w * h);
  gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  let text = "";
  for (let y = h - 1; y >= 0; y--) for (let x = 0; x < w; x++)
    text += String.fromCharCode(...pixels.subarray(4 * (y * w + x), 4 * (y * w + x) + 3));
  viewer.splats.sortNow(depthRow(viewer.pose));
  wake();
  return btoa(text);
};
window.viewer = viewer;
begin().catch(fail);
