// The page: the state, and what follows from what.

const look = (() => {
  "use strict";
  const { el, number } = paint;
  const data = JSON.parse(document.getElementById("data").textContent);
  const nodes = decode.nodes(data.nodes, data.weights), shape = nodes[0].shape;
  const state = { data, nodes, examples: decode.images(data.examples.images, data.examples.labels.length), pixels: null, values: null, unit: null, milliseconds: 0 };
  let pinned = null, channel = null, waiting = false, source = "";

  const at = (id) => document.getElementById(id);
  const probabilities = el("ol", { class: "probabilities", "aria-label": "probabilities" });
  const seen = el("div", { class: "seen" }), answer = el("p", { class: "answer", role: "status" }), time = el("p", { class: "note" });

  // Runs the net at the next frame: of several strokes within one, the last counts.
  function changed(pixels, how) {
    state.pixels = pixels;
    source = how;
    if (!how.startsWith("test example")) press(null);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      compute();
    });
  }

  function compute() {
    const started = performance.now();
    state.values = layers.run(nodes, layers.standardize(state.pixels, data.input.mean, data.input.std));
    state.milliseconds = performance.now() - started;
    drawAnswer();
    all.draw();
    drawUnit();
    five?.draw();
  }

  function drawAnswer() {
    const logits = state.values.at(-1), shares = layers.softmax(logits), best = shares.indexOf(Math.max(...shares)), rbf = nodes.findLast((node) => node.kind === "rbf");
    const order = shares.map((_, i) => i);
    const shown = order.length <= 20 ? order : order.sort((a, b) => shares[b] - shares[a]).slice(0, 10);
    const distances = rbf && state.values[nodes.indexOf(rbf)];
    probabilities.classList.toggle("distances", !!distances);
    probabilities.replaceChildren(...shown.map((i) => el("li", { class: i === best ? "best" : null },
      distances ? bitmap(rbf.arrays.centres, i) : null,
      el("span", { class: "name" }, data.classes[i]), el("span", { class: "bar" }, el("span", { style: `width:${100 * shares[i]}%` })), el("span", { class: "value" }, paint.percent(shares[i])),
      distances ? el("span", { class: "distance", title: "squared distance to the bitmap" }, number(distances[i])) : null)));
    answer.replaceChildren("The net says ", el("b", {}, data.classes[best]), `, ${paint.percent(shares[best])}.`);
    time.textContent = `${source}; ${state.milliseconds.toFixed(1)} ms for ${nodes.length - 1} steps`;
    seen.replaceChildren(paint.picture(state.pixels, shape, 140, { role: "img", "aria-label": "what the net sees" }));
  }

  // A bitmap of LeNet-5's output layer, 12 rows of 7; of other centres none.
  function bitmap(centres, i) {
    if (centres.length !== 84 * data.classes.length) return el("span");
    const centre = centres.subarray(84 * i, 84 * (i + 1));
    const canvas = el("canvas", { width: 14, height: 24, class: "bitmap", "aria-hidden": "true" });
    paint.pixels(canvas.getContext("2d"), 12, 7, (i) => paint.colour(centre[i], 1), 0, 0, 2);
    return canvas;
  }

  // The unit below the pointer, unless one is pinned; `pin` is true for a click, "keyboard" for arrow keys.
  function choose(unit, pin) {
    if (pin === "keyboard") pinned = unit;
    else if (pin) pinned = unit && same(pinned, unit) ? null : unit;
    else if (pinned) return;
    if (!same(state.unit, unit)) channel = null;
    if (unit || pin) state.unit = unit;
    if (state.unit && nodes[state.unit.node].kind === "conv" && pin) five?.choose(state.unit);
    drawUnit();
  }

  const same = (a, b) => !!a && !!b && a.node === b.node && a.y === b.y && a.x === b.x && a.c === b.c;

  function drawUnit() {
    const panel = at("unit-body"), one = state.unit;
    if (!one) return;
    const node = nodes[one.node];
    at("unit-title").textContent = node.name;
    at("unit-where").textContent = one.node ? unit.where(node.shape, one) : `pixel, row ${one.y}, column ${one.x}`;
    at("unit-value").textContent = one.node ? number(unit.value(state, one), 4) : "";
    at("unit-pinned").textContent = pinned ? "Pinned: click again or press Escape to release." : "Click to pin it.";
    const field = one.node ? receptive(one) : null;
    panel.replaceChildren(...[field, unit.explain(state, one, { channel, show: (c) => ((channel = c), drawUnit()), toViews })].flat(2).filter(Boolean));
    all.mark(unit.marks(state, one));
  }

  // The image with the pixels that a unit sees.
  function receptive(one) {
    const [H, W, C] = shape, mask = layers.seenBy(nodes, one), side = Math.max(1, Math.floor(128 / W)), canvas = el("canvas", { width: W * side, height: H * side, class: "picture", role: "img" });
    const context = canvas.getContext("2d"), colours = paint.photograph(state.pixels, C), count = mask.reduce((sum, on) => sum + on, 0);
    paint.pixels(context, H, W, (i) => (mask[i] ? colours(i) : Array.from(colours(i), (value) => Math.round(0.25 * value + 70))), 0, 0, side);
    const rows = [...mask.keys()].filter((i) => mask[i]).map((i) => Math.floor(i / W)), columns = [...mask.keys()].filter((i) => mask[i]).map((i) => i % W);
    if (!count) return null;
    const [top, bottom, left, right] = [Math.min(...rows), Math.max(...rows) + 1, Math.min(...columns), Math.max(...columns) + 1];
    context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
    context.lineWidth = 2;
    context.strokeRect(left * side + 1, top * side + 1, (right - left) * side - 2, (bottom - top) * side - 2);
    canvas.setAttribute("aria-label", `sees rows ${top} to ${bottom - 1} and columns ${left} to ${right - 1} of the image`);
    return el("figure", { class: "field" }, canvas, el("figcaption", {}, `Sees ${paint.grouped(count)} pixels of the image: rows ${top}–${bottom - 1}, columns ${left}–${right - 1}.`));
  }

  function toViews(one) {
    five?.choose(one);
    at("convolution").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  function press(i) {
    for (const button of at("strip").children) button.setAttribute("aria-pressed", button.dataset.example === String(i));
  }

  function take(i, scroll = true) {
    drawn.show(state.examples[i]);
    changed(state.examples[i], `test example ${data.examples.numbers[i]}, true ${data.classes[data.examples.labels[i]]}`);
    press(i);
    if (scroll) at("draw").scrollIntoView({ block: "nearest" });
  }

  // Compares the page's outputs with those that JAX gave when the page was made; a page that is wrong says so.
  function check() {
    const outputs = new Float32Array(decode.bytes(data.examples.outputs).buffer), M = nodes.at(-1).shape.at(-1), count = Math.min(4, outputs.length / M);
    let worst = 0;
    for (let i = 0; i < count; i++) {
      const wanted = outputs.subarray(i * M, (i + 1) * M), most = paint.largest(wanted) || 1;
      const values = layers.run(nodes, layers.standardize(state.examples[i], data.input.mean, data.input.std)).at(-1);
      wanted.forEach((value, m) => (worst = Math.max(worst, Math.abs(value - values[m]) / most)));
      if (values.some(Number.isNaN) && !wanted.some(Number.isNaN)) worst = Infinity;
    }
    const right = worst <= 1e-4, said = `${count} test examples: outputs differ from JAX's by up to ${number(worst, 2)} of the largest`;
    at("check").textContent = right ? `Checked on ${said}.` : `This page is wrong in this browser. On ${said}; do not trust what it shows.`;
    at("check").className = right ? "note" : "alarm";
    return worst;
  }

  // Light, dark, or what the system says.
  function theme() {
    const wanted = { auto: "light", light: "dark", dark: "auto" }[document.documentElement.dataset.theme ?? "auto"];
    document.documentElement.dataset.theme = wanted;
    repaint();
  }

  function repaint() {
    at("theme").textContent = `Theme: ${document.documentElement.dataset.theme ?? "auto"}`;
    paint.readColours();
    if (state.values) drawAnswer(), all.draw(), drawUnit(), five?.draw();
  }

  paint.readColours();
  const drawn = picture.make(data, shape, changed), all = maps.make(state, choose);
  const five = nodes.some((node) => node.kind === "conv") ? views.make(state) : null;
  const score = (100 * (data.tested - data.wrong)) / data.tested, weights = data.table.reduce((sum, row) => sum + row.params, 0);
  at("facts").textContent = `${data.model.name} on ${data.dataset} · ${paint.grouped(weights)} parameters · ${number(score, 4)} % of ${paint.grouped(data.tested)} test examples right · ${paint.grouped(data.step)} updates${data.dtype === "float32" ? "" : ` · trained in ${data.dtype}, shown in float32`}`;
  at("picture").append(drawn.element);
  at("says").append(answer, probabilities, time);
  at("sees").append(seen);
  at("strip").append(...data.strip.map((i) => {
    const button = run.example(state, i, (one) => take(one, false));
    button.dataset.example = i;
    return button;
  }));
  at("cards").append(...all.elements);
  if (five) at("five").append(five.element);
  else at("convolution").remove();
  at("run-body").append(...run.make(state, take));
  at("theme").addEventListener("click", theme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !pinned) return;
    pinned = null;
    drawUnit();
  });
  const worst = check();
  take(data.strip[0], false);
  compute();
  const conv = nodes.findIndex((node) => node.kind === "conv");
  if (conv > 0) state.unit = { node: conv, y: nodes[conv].shape[0] >> 1, x: nodes[conv].shape[1] >> 1, c: 0 };
  drawUnit();
  repaint();
  return { state, worst, choose, compute, five };
})();
