// Draws Gaussians in WebGL2 as the rasterizer does: unpacks a packed scene, sorts it by depth, blends it back to front.
//
// The packed scene is that of `scene_page.py`, with the constants of the rasterizer in its `blend`: low-pass, near plane,
// alpha cut-off, largest alpha, constant harmonic. Formulas are those of csrc/math (project, sh, primitive). Frames: x right,
// y down, z forward; pixel centres at +0.5.
"use strict";

const WIDTH = 2048;   // texels a row of the textures that hold the scene
const COEFFICIENTS = [0, 3, 8, 15], TEXELS = [0, 1, 2, 3];   // by SH degree: bases above the constant, texels of their bytes

// ---- the packed scene ----

async function unpacked(text) {   // base64 of gzip to bytes
  const letters = atob(text), packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Bytes to what the textures hold: A is x, y, z as float bits and the rotation, B the scales with opacity and the colour,
// C the bytes of the harmonics, padded to whole texels.
function scattered(bytes, {count, degree, low, high}) {
  const rows = texels => Math.ceil(count * texels / WIDTH) || 1, room = texels => rows(texels) * WIDTH;
  const a = new Uint32Array(4 * room(1)), b = new Uint32Array(2 * room(1)), places = new Float32Array(3 * count);
  const f = new Float32Array(a.buffer);
  let at = 0;
  for (let axis = 0; axis < 3; axis++, at += 3 * count) {   // 24 bits, as three planes of bytes
    const step = (high[axis] - low[axis]) / 16777215;
    for (let i = 0; i < count; i++) {
      const fixed = bytes[at + i] | bytes[at + count + i] << 8 | bytes[at + 2 * count + i] << 16;
      places[3 * i + axis] = f[4 * i + axis] = low[axis] + step * fixed;
    }
  }
  const word = (from, i) => bytes[from + 4 * i] | bytes[from + 4 * i + 1] << 8 | bytes[from + 4 * i + 2] << 16 |
    bytes[from + 4 * i + 3] << 24;
  for (let i = 0; i < count; i++) {
    a[4 * i + 3] = word(at, i);
    b[2 * i] = word(at + 4 * count, i);
    b[2 * i + 1] = word(at + 8 * count, i);
  }
  at += 12 * count;
  const wide = 3 * COEFFICIENTS[degree], c = new Uint8Array(16 * room(TEXELS[degree]));
  for (let k = 0; k < wide; k++, at += count)
    for (let i = 0; i < count; i++) c[16 * TEXELS[degree] * i + k] = bytes[at + i];
  return {a, b, c: new Uint32Array(c.buffer), places};
}

// ---- order ----

// A sorter of places [3N]: given the row of the view matrix that makes depths, the indices of what lies in front of the
// camera, farthest first; equal depths keep their order from behind. A radix sort of the depths' float bits.
// It runs in a worker, to which its text is sent: it must refer to nothing outside.
function sorter(places, near) {
  const count = places.length / 3, depths = new Float32Array(count), bits = new Uint32Array(depths.buffer);
  const first = new Uint32Array(count), second = new Uint32Array(count), counts = new Uint32Array(3 * 2048);
  return ([x, y, z, shift]) => {
    let found = 0;
    counts.fill(0);
    for (let i = count - 1; i >= 0; i--) {
      const depth = x * places[3 * i] + y * places[3 * i + 1] + z * places[3 * i + 2] + shift;
      if (!(depth > near)) continue;
      depths[i] = depth;
      first[found++] = i;
      const key = ~bits[i];
      counts[key & 2047]++; counts[2048 + (key >>> 11 & 2047)]++; counts[4096 + (key >>> 22)]++;
    }
    const order = new Uint32Array(found);
    [[first, order], [order, second], [second, order]].forEach(([from, to], pass) => {   // 11 bits, 11 bits, 10 bits
      const part = counts.subarray(2048 * pass, 2048 * (pass + 1)), lift = 11 * pass;
      for (let k = 0, sum = 0; k < 2048; k++) { const n = part[k]; part[k] = sum; sum += n; }
      for (let k = 0; k < found; k++) to[part[~bits[from[k]] >>> lift & 2047]++] = from[k];
    });
    return order;
  };
}

// ---- shaders ----

const byte = n => `float(w${n >> 4}[${n >> 2 & 3}] >> ${8 * (n & 3)}u & 255u)`;
const coefficient = k => `(vec3(${[0, 1, 2].map(c => byte(3 * k + c))}) - 128.0)`;
const HARMONICS = [[],
  ["-0.4886025119029199 * y", "0.4886025119029199 * z", "-0.4886025119029199 * x"],
  ["1.0925484305920792 * x * y", "-1.0925484305920792 * y * z", "0.31539156525252005 * (2.0 * zz - xx - yy)",
    "-1.0925484305920792 * x * z", "0.5462742152960396 * (xx - yy)"],
  ["-0.5900435899266435 * y * (3.0 * xx - yy)", "2.890611442640554 * x * y * z",
    "-0.4570457994644658 * y * (4.0 * zz - xx - yy)", "0.3731763325901154 * z * (2.0 * zz - 3.0 * (xx + yy))",
    "-0.4570457994644658 * x * (4.0 * zz - xx - yy)", "1.445305721320277 * z * (xx - yy)",
    "-0.5900435899266435 * x * (xx - 3.0 * yy)"]];

function shading(degree) {   // GLSL that adds the harmonics above the constant to `color`
  const words = [...Array(TEXELS[degree]).keys()].map(t =>
    `uvec4 w${t} = texelFetch(harmonics, place(${TEXELS[degree]} * int(which) + ${t}), 0);`);
  let k = 0;
  const sums = HARMONICS.slice(1, degree + 1).map((basis, l) =>
    `color += reach[${l}] / 127.0 * (${basis.map(y => `${y} * ${coefficient(k++)}`).join(" + ")});`);
  return `vec3 d = normalize(mean - eye); float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
    ${words.join("\n")} ${sums.join("\n")}`;
}

const float = n => Number.isInteger(n) ? `${n}.0` : String(n);   // as GLSL writes it

const vertexShader = ({degree, antialiased, blend}) => `#version 300 es
precision highp float; precision highp int; precision highp usampler2D;
uniform usampler2D shapes, looks, harmonics;
uniform mat3 turn; uniform vec3 shift, eye, reach;
uniform vec2 focal, centre, size, scales, colors;
in uint which;
out vec3 shown; out float peak; out vec2 offset;
ivec2 place(int texel) { return ivec2(texel & ${WIDTH - 1}, texel >> ${Math.log2(WIDTH)}); }
mat3 rotation(uint packed) {
  vec4 q = vec4(0.0);
  uint largest = packed >> 30;
  for (int axis = 3; axis >= 0; axis--) if (uint(axis) != largest) {
    q[axis] = float(packed & 511u) * ${Math.SQRT1_2 / 511} * ((packed & 512u) != 0u ? -1.0 : 1.0);
    packed >>= 10;
  }
  q[largest] = sqrt(max(0.0, 1.0 - dot(q, q)));
  vec3 v = q.xyz;
  return mat3(1.0 - 2.0 * (v.y * v.y + v.z * v.z), 2.0 * (v.x * v.y + q.w * v.z), 2.0 * (v.x * v.z - q.w * v.y),
    2.0 * (v.x * v.y - q.w * v.z), 1.0 - 2.0 * (v.x * v.x + v.z * v.z), 2.0 * (v.y * v.z + q.w * v.x),
    2.0 * (v.x * v.z + q.w * v.y), 2.0 * (v.y * v.z - q.w * v.x), 1.0 - 2.0 * (v.x * v.x + v.y * v.y));
}
void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);   // seen by nobody, until it is known better
  uvec4 shape = texelFetch(shapes, place(int(which)), 0);
  uvec2 look = texelFetch(looks, place(int(which)), 0).xy;
  vec3 mean = uintBitsToFloat(shape.xyz), p = turn * mean + shift;
  if (p.z <= ${float(blend.near_plane)}) return;
  vec3 s = exp(scales.x + scales.y * vec3(look.x & 255u, look.x >> 8 & 255u, look.x >> 16 & 255u));
  mat3 axes = turn * rotation(shape.w);
  axes = mat3(axes[0] * s.x, axes[1] * s.y, axes[2] * s.z);
  vec2 least = -centre / focal - 0.15 * size / focal, most = (size - centre) / focal + 0.15 * size / focal;
  vec2 t = clamp(p.xy / p.z, least, most);
  vec3 row0 = focal.x / p.z * vec3(1.0, 0.0, -t.x) * axes, row1 = focal.y / p.z * vec3(0.0, 1.0, -t.y) * axes;
  float a = dot(row0, row0), b = dot(row0, row1), c = dot(row1, row1);
  float raw = dot(cross(row0, row1), cross(row0, row1));
  a += ${float(blend.eps2d)}; c += ${float(blend.eps2d)};
  peak = float(look.x >> 24) / 255.0 ${antialiased ? "* sqrt(raw / (a * c - b * b))" : ""};
  if (peak < ${float(blend.alpha_threshold)}) return;
  float middle = 0.5 * (a + c), apart = length(vec2(0.5 * (a - c), b));
  vec2 along = apart < 1e-6 * middle ? vec2(1.0, 0.0) :
    normalize(a > c ? vec2(0.5 * (a - c) + apart, b) : vec2(b, 0.5 * (c - a) + apart));
  float limit = sqrt(2.0 * log(peak / ${float(blend.alpha_threshold)}));   // standard deviations at which alpha falls to the cut-off
  offset = limit * vec2(gl_VertexID % 2 == 0 ? -1.0 : 1.0, gl_VertexID < 2 ? -1.0 : 1.0);
  float wide = sqrt(middle + apart), narrow = sqrt(max(middle - apart, 0.0));
  vec2 pixel = focal * p.xy / p.z + centre;
  if (any(lessThan(pixel + limit * wide, vec2(0.0))) || any(greaterThan(pixel - limit * wide, size))) return;
  vec2 at = pixel + offset.x * wide * along + offset.y * narrow * vec2(-along.y, along.x);
  vec3 steps = vec3(look.y & 1023u, look.y >> 10 & 1023u, look.y >> 20 & 1023u);
  vec3 color = 0.5 + ${float(blend.sh0)} * (colors.x + colors.y * steps);
  ${degree ? shading(degree) : ""}
  shown = max(color, 0.0);
  gl_Position = vec4(2.0 * at.x / size.x - 1.0, 1.0 - 2.0 * at.y / size.y, 0.0, 1.0);
}`;

const fragmentShader = ({blend}) => `#version 300 es
precision highp float;
in vec3 shown; in float peak; in vec2 offset;
out vec4 pixel;
void main() {
  float alpha = min(${float(blend.alpha_max)}, peak * exp(-0.5 * dot(offset, offset)));
  if (alpha < ${float(blend.alpha_threshold)}) discard;
  pixel = vec4(shown * alpha, alpha);
}`;

// ---- the drawer ----

// Draws a scene on a canvas. `arrived` is called when the worker has sent a new order.
class Splats {
  constructor(canvas, scene, bytes, arrived) {
    const gl = canvas.getContext("webgl2", {antialias: false, alpha: false, powerPreference: "high-performance"});
    if (!gl) throw new Error("This browser or its settings offer no WebGL2, with which the scene is drawn.");
    Object.assign(this, {canvas, scene, gl, count: 0, arrived, busy: false, wanted: null});
    if (scene.count * Math.max(1, TEXELS[scene.degree]) > WIDTH * gl.getParameter(gl.MAX_TEXTURE_SIZE))
      throw new Error("It has more Gaussians than this device can hold: export it with --limit or --sh-degree 0.");
    const {a, b, c, places} = scattered(bytes, scene);
    this.places = places;
    this.program = this.linked(vertexShader(scene), fragmentShader(scene));
    gl.useProgram(this.program);
    const textures = [["shapes", gl.RGBA32UI, gl.RGBA_INTEGER, a, 4], ["looks", gl.RG32UI, gl.RG_INTEGER, b, 2]];
    if (scene.degree) textures.push(["harmonics", gl.RGBA32UI, gl.RGBA_INTEGER, c, 4]);
    textures.forEach(([name, inside, outside, data, words], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
      gl.texImage2D(gl.TEXTURE_2D, 0, inside, WIDTH, data.length / words / WIDTH, 0, outside, gl.UNSIGNED_INT, data);
      gl.uniform1i(gl.getUniformLocation(this.program, name), unit);
    });
    const located = {};
    this.uniform = name => located[name] ??= gl.getUniformLocation(this.program, name);
    gl.uniform2fv(this.uniform("scales"), scene.scales);
    gl.uniform2fv(this.uniform("colors"), scene.colors);
    gl.uniform3fv(this.uniform("reach"), scene.reach);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    const which = gl.getAttribLocation(this.program, "which");
    gl.enableVertexAttribArray(which);
    gl.vertexAttribIPointer(which, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(which, 1);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.clearColor(...scene.background, 1);
    // Bytes would clip what is brighter than white before something darker covers it, and round at every layer.
    if (gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float")) this.deepen();
    this.employ();
  }
  deepen() {   // blends in half floats, in a picture beside the canvas
    const {gl} = this;
    this.deep = {frame: gl.createFramebuffer(), picture: gl.createRenderbuffer(), size: ""};
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.deep.frame);
    gl.bindRenderbuffer(gl.RENDERBUFFER, this.deep.picture);
    gl.renderbufferStorage(gl.RENDERBUFFER, gl.RGBA16F, 1, 1);
    gl.framebufferRenderbuffer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.RENDERBUFFER, this.deep.picture);
    if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) this.deep = null;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  }
  linked(...sources) {
    const {gl} = this, program = gl.createProgram();
    sources.forEach((source, i) => {
      const shader = gl.createShader(i ? gl.FRAGMENT_SHADER : gl.VERTEX_SHADER);
      gl.shaderSource(shader, source); gl.compileShader(shader); gl.attachShader(program, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    });
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    return program;
  }
  employ() {   // the worker that sorts; without one (a policy may forbid it) the page sorts itself
    const work = `let sort;
      onmessage = ({data}) => {
        if (data.places) { sort = (${sorter})(data.places, data.near); return; }
        const order = sort(data.row);
        postMessage(order, [order.buffer]);
      };`;
    try {
      this.worker = new Worker(URL.createObjectURL(new Blob([work], {type: "text/javascript"})));
      this.worker.onmessage = ({data}) => {
        this.busy = false;
        this.load(data);
        if (this.wanted) this.sort(this.wanted);
        this.arrived();
      };
      this.worker.onerror = () => { this.worker = null; this.busy = false; if (this.last) this.sort(this.last); };
      this.worker.postMessage({places: this.places, near: this.scene.blend.near_plane});
    } catch { this.worker = null; }
  }
  sort(row) {   // asks for an order; the latest wish counts
    this.last = row;
    if (!this.worker) { this.sortNow(row); this.arrived(); return; }
    this.wanted = this.busy ? row : null;
    if (this.busy) return;
    this.busy = true;
    this.worker.postMessage({row});
  }
  sortNow(row) {
    this.own ??= sorter(this.places, this.scene.blend.near_plane);
    this.load(this.own(row));
  }
  load(order) {
    this.count = order.length;
    this.gl.bufferData(this.gl.ARRAY_BUFFER, order, this.gl.STREAM_DRAW);
  }
  // One picture: pose is {turn: rows of world to camera, shift, eye}, lens {focal, centre} in pixels of the canvas.
  draw({turn, shift, eye}, {focal, centre}) {
    const {gl, canvas, deep} = this, {width, height} = canvas;
    if (deep) {
      gl.bindFramebuffer(gl.FRAMEBUFFER, deep.frame);
      if (deep.size !== `${width} ${height}`) gl.renderbufferStorage(gl.RENDERBUFFER, gl.RGBA16F, width, height);
      deep.size = `${width} ${height}`;
    }
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniformMatrix3fv(this.uniform("turn"), true, turn.flat());
    gl.uniform3fv(this.uniform("shift"), shift);
    gl.uniform3fv(this.uniform("eye"), eye);
    gl.uniform2fv(this.uniform("focal"), focal);
    gl.uniform2fv(this.uniform("centre"), centre);
    gl.uniform2f(this.uniform("size"), width, height);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.count);
    if (!deep) return;
    gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
    gl.blitFramebuffer(0, 0, width, height, 0, 0, width, height, gl.COLOR_BUFFER_BIT, gl.NEAREST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
  }
}
