// Five views of one convolution, and the way back.

const views = (() => {
  "use strict";
  const { el, number } = paint;
  const GRADIENTS = [0, 1, -1]; // what a click makes of an element of the chosen gradient, in turns

  // state.nodes with a convolution; returns {element, draw(), choose(unit)}.
  function make(state) {
    const convs = state.nodes.map((node, i) => [node, i]).filter(([node]) => node.kind === "conv");
    const first = state.nodes[convs[0][1]];
    let one = { node: convs[0][1], y: first.shape[0] >> 1, x: first.shape[1] >> 1, c: 0 }, channel = 0, dy = null, target = null, shown = 0;

    const layer = el("select", { id: "view-layer", onchange: () => choose({ node: +layer.value, y: state.nodes[+layer.value].shape[0] >> 1, x: state.nodes[+layer.value].shape[1] >> 1, c: 0 }) },
      convs.map(([node, i]) => el("option", { value: i }, node.name)));
    const field = (name, set) => el("input", { id: `view-${name.replace(" ", "-")}`, type: "number", min: 0, onchange: (event) => set(Math.max(0, Math.min(+event.target.max, Math.round(+event.target.value) || 0))) });
    const fields = {
      "map": field("map", (value) => choose({ ...one, c: value })),
      "row": field("row", (value) => choose({ ...one, y: value })),
      "column": field("column", (value) => choose({ ...one, x: value })),
      "input map": field("input map", (value) => ((channel = value), draw())),
    };
    const controls = el("div", { class: "controls" }, el("label", {}, "layer ", layer), Object.entries(fields).map(([name, input]) => el("label", {}, `${name} `, input)));

    const TABS = [["Formula", formula], ["Network", network], ["Matrix", matrix], ["im2col", im2col], ["Dense layer", dense], ["Backward", backward]];
    const panel = el("div", { id: "view-panel", role: "tabpanel", tabindex: 0, "aria-labelledby": "view-tab-0" });
    const tabs = TABS.map(([name], i) => el("button", { type: "button", role: "tab", id: `view-tab-${i}`, "aria-controls": "view-panel", onclick: () => open(i) }, name));
    const list = el("div", { role: "tablist", "aria-label": "Views of the convolution", class: "tabs" }, tabs);
    list.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      open((shown + step + tabs.length) % tabs.length);
      tabs[shown].focus();
    });

    function open(i) {
      shown = i;
      tabs.forEach((tab, j) => {
        tab.setAttribute("aria-selected", i === j);
        tab.tabIndex = i === j ? 0 : -1;
      });
      panel.setAttribute("aria-labelledby", `view-tab-${i}`);
      draw();
    }

    function choose(unit) {
      one = { ...unit };
      channel = -1;
      dy = target = null;
      layer.value = one.node;
      draw();
    }

    function draw() {
      if (!state.values) return;
      const node = state.nodes[one.node], source = state.nodes[node.inputs[0]], read = unit.channelsRead(node, one.c, source.shape[2]);
      if (!read.includes(channel)) channel = unit.partialSums(state, one).parts.reduce((a, b) => (Math.abs(b.sum) > Math.abs(a.sum) ? b : a)).c;
      for (const [name, value, max] of [["map", one.c, node.shape[2] - 1], ["row", one.y, node.shape[0] - 1], ["column", one.x, node.shape[1] - 1], ["input map", channel, source.shape[2] - 1]])
        Object.assign(fields[name], { value, max });
      const crop = windows.crop(state, one, channel);
      panel.replaceChildren(...[TABS[shown][1](node, source, crop)].flat().filter(Boolean));
    }

    const total = () => unit.value(state, one);

    // y = b + sum over c and t of x[c, t] w[c, t], with the numbers of one map.
    function formula(node, source, crop) {
      const { parts, bias } = unit.partialSums(state, one), { values } = unit.patch(node, state.values[node.inputs[0]], source.shape, one, channel);
      const terms = Array.from(crop.kernel, (weight, tap) => el("span", { class: "term" }, `${number(values[tap])}·${weight < 0 ? `(${number(weight)})` : number(weight)}`));
      const line = terms.flatMap((term, i) => (i ? [" + ", term] : [term]));
      const others = parts.filter((part) => part.c !== channel).reduce((sum, part) => sum + part.sum, 0), own = parts.find((part) => part.c === channel).sum;
      return [
        el("p", { class: "formula" }, "y[o, f] = b[f] + Σ", el("sub", {}, "c"), " Σ", el("sub", {}, "t"), " x[o·stride + t·dilation − low, c] · w[t, c, f]"),
        el("p", {}, `At row ${one.y}, column ${one.x} of map ${one.c}; map ${channel} of ${source.name}:`),
        el("p", { class: "terms" }, line, " = ", el("b", {}, number(own, 4))),
        numbers.sum([[own, `from map ${channel}, as above`], ...(parts.length > 1 ? [[others, `from the other ${parts.length - 1} maps`]] : []), ...(node.arrays.bias ? [[bias, `bias of map ${one.c}`]] : [])], [own + others + bias, `y, and the net says ${number(total(), 4)}`]),
      ];
    }

    // The connections of a crop as lines from its inputs, at the left, to its outputs.
    function drawing(crop, withZeros, label) {
      const count = crop.x.length, outputs = crop.outputs[0] * crop.outputs[1], H = Math.max(360, Math.min(760, 13 * count)), W = 900;
      const y = windows.forward(crop), place = (i, of) => ((i + 0.5) * H) / of, bound = paint.largest(crop.kernel);
      const dot = (value, x, at, r, most, marked, title) => el("circle", { cx: x, cy: at, r, fill: paint.css(paint.colour(value, most)), class: marked ? "dot marked" : "dot" }, el("title", {}, title));
      const lines = [], above = [];
      if (withZeros)
        for (let o = 0; o < outputs; o++) for (let i = 0; i < count; i++) lines.push(el("line", { x1: 70, y1: place(i, count), x2: W - 90, y2: place(o, outputs), class: "zero" }));
      windows.eachConnection(crop, (o, i, tap) => {
        const mine = o === crop.unit;
        (mine ? above : lines).push(el("line", { x1: 70, y1: place(i, count), x2: W - 90, y2: place(o, outputs), stroke: paint.css(paint.colour(crop.kernel[tap], bound)), "stroke-width": mine ? 2.5 : 1, opacity: mine ? 1 : 0.35 }));
      });
      const r = Math.min(6, H / count / 2.2), most = paint.largest(crop.x);
      const left = Array.from(crop.x, (value, i) => dot(value, 70, place(i, count), r, most, false, `input ${Math.floor(i / crop.inputs[1])}, ${i % crop.inputs[1]}: ${number(value)}`));
      const right = Array.from(y, (value, o) => [dot(value, W - 90, place(o, outputs), 9, paint.largest(y), o === crop.unit, number(value)), el("text", { x: W - 72, y: place(o, outputs) + 5 }, number(value))]);
      return el("div", { class: "scroll" }, el("svg", { viewBox: `0 0 ${W} ${H}`, class: "network", role: "img", "aria-label": label }, lines, above, left, right.flat(),
        el("text", { x: 60, y: place(0, count) + 4, "text-anchor": "end" }, "x₁"), el("text", { x: 60, y: place(count - 1, count) + 4, "text-anchor": "end" }, `x${sub(count)}`)));
    }

    const sub = (n) => String(n).replace(/\d/g, (digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]);

    function network(node, source, crop) {
      const count = crop.x.length, outputs = crop.outputs[0] * crop.outputs[1], taps = crop.kernel.length;
      return [
        el("p", {}, `Each of the ${outputs} outputs around the unit reads ${taps} of ${count} inputs. Lines of one colour are one weight: ${outputs * taps} connections share ${taps} numbers. The bold ones go to the chosen unit.`),
        drawing(crop, false, `Network of ${count} inputs and ${outputs} outputs with ${outputs * taps} connections`),
        el("p", { class: "note" }, `The whole layer: ${connections(node, source)}. Sums of this map alone, without the bias.`),
      ];
    }

    function connections(node, source) {
      const uses = layers.size(node.shape) * (node.options.window[0] * node.options.window[1]);
      const read = Array.from({ length: node.shape[2] }, (_, f) => unit.channelsRead(node, f, source.shape[2]).length).reduce((a, b) => a + b, 0) / node.shape[2];
      const trained = node.options.window[0] * node.options.window[1] * read * node.shape[2];
      return `${paint.grouped(Math.round(uses * read))} connections, padding included, of ${paint.grouped(Math.round(trained))} shared weights`;
    }

    function toeplitz(crop) {
      const taps = windows.toeplitzTaps(crop);
      return { taps, values: Float64Array.from(taps, (tap) => (tap < 0 ? 0 : crop.kernel[tap])), shape: [crop.outputs[0] * crop.outputs[1], crop.x.length] };
    }

    function matrix(node, source, crop) {
      const { taps, values, shape } = toeplitz(crop), y = windows.forward(crop), many = shape[1] > MOST_COLUMNS;
      const grey = (i) => taps[i] < 0, marked = (i) => Math.floor(i / shape[1]) === crop.unit;
      return [
        el("p", {}, "vec(y) = M vec(x). Row o has the kernel where output o reads; the same row moves along: a banded Toeplitz matrix of such blocks. Grey cells are zeros."),
        many
          ? numbers.pictureOf(values, shape, `M, ${paint.by(shape)}`, { side: 4, grey })
          : numbers.matrix(values, shape, `M, ${paint.by(shape)}; above its columns x, beside its rows y`, { grey, marked, small: true, texts: (i) => (grey(i) ? "" : paint.short(values[i])), head: (i) => paint.short(crop.x[i]), side: (o) => paint.short(y[o]) }),
        row(crop, values, y, shape),
        whole(node, source, crop),
      ];
    }

    const MOST_COLUMNS = 100;

    // The chosen row times x.
    function row(crop, values, y, shape) {
      const product = crop.x.reduce((sum, value, i) => sum + value * values[crop.unit * shape[1] + i], 0);
      return el("p", { class: "result" }, `Row ${crop.unit} times x = `, el("b", {}, number(product, 4)), `, the unit's sum over map ${channel}.`);
    }

    // The matrix of the whole layer, from one map to one map.
    function whole(node, source, crop) {
      const [OH, OW] = node.shape, [H, W] = source.shape, shape = [OH * OW, H * W];
      if (shape[0] * shape[1] > 3e6) return el("p", { class: "note" }, `The whole layer's matrix from one map to one map is ${paint.by(shape.map(paint.grouped))}.`);
      const details = el("details", { id: "whole-matrix" }, el("summary", {}, `The whole matrix from map ${channel} to map ${one.c}, ${paint.by(shape.map(paint.grouped))}`));
      details.addEventListener("toggle", () => {
        if (!details.open || details.children.length > 1) return;
        const values = new Float32Array(shape[0] * shape[1]), set = new Uint8Array(values.length);
        for (let o = 0; o < shape[0]; o++)
          layers.eachTap(node.options, [H, W], Math.floor(o / OW), o % OW, (tap, pixel) => {
            values[o * shape[1] + pixel] = crop.kernel[tap];
            set[o * shape[1] + pixel] = 1;
          });
        details.append(numbers.pictureOf(values, shape, "one dot for each element", { side: Math.max(1, Math.min(4, Math.floor(900 / shape[1]))), grey: (i) => !set[i] }));
      });
      return details;
    }

    function im2col(node, source, crop) {
      const rows = windows.im2col(crop), taps = crop.kernel.length, shape = [rows.length / taps, taps], y = windows.forward(crop);
      const caption = `patches, ${paint.by(shape)}; above its columns the kernel, beside its rows y`;
      return [
        el("p", {}, "y = im2col(x) w. Each row is one patch, written out; the kernel is a column. The convolution is one matrix product, and each input stands in many rows."),
        taps > MOST_COLUMNS
          ? numbers.pictureOf(rows, shape, `patches, ${paint.by(shape)}`, { side: 6 })
          : numbers.matrix(rows, shape, caption, { small: true, marked: (i) => Math.floor(i / taps) === crop.unit, head: (tap) => paint.short(crop.kernel[tap]), side: (o) => paint.short(y[o]) }),
        el("p", { class: "result" }, `Row ${crop.unit} times the kernel = `, el("b", {}, number(crop.kernel.reduce((sum, weight, tap) => sum + weight * rows[crop.unit * taps + tap], 0), 4)), `, the unit's sum over map ${channel}.`),
        el("p", { class: "note" }, `All maps of the layer: ${paint.grouped(node.shape[0] * node.shape[1])} patches of ${paint.grouped(taps * (crop.C / node.options.groups))} numbers${node.options.groups > 1 ? ` in each of ${node.options.groups} groups` : ""}, times ${crop.F} kernels.`),
      ];
    }

    function dense(node, source, crop) {
      const { taps, shape } = toeplitz(crop), zeros = taps.reduce((count, tap) => count + (tap < 0), 0), label = (i) => `w${sub(taps[i] + 1)}`;
      const values = Float64Array.from(taps, (tap) => (tap < 0 ? 0 : crop.kernel[tap])), y = windows.forward(crop);
      const all = layers.size(source.shape) * layers.size(node.shape), own = node.arrays.kernel.length;
      return [
        el("p", {}, `A dense layer from these ${shape[1]} inputs to ${shape[0]} outputs has ${paint.grouped(taps.length)} weights. The convolution is that layer with ${paint.grouped(zeros)} of them held at zero, untrained (grey), and the others tied: ${crop.kernel.length} numbers in all.`),
        drawing(crop, true, `Dense layer of ${shape[1]} inputs and ${shape[0]} outputs, ${zeros} of its ${taps.length} weights zero`),
        shape[1] <= MOST_COLUMNS && numbers.matrix(values, shape, "its weights by name: equal names are one number", { small: true, grey: (i) => taps[i] < 0, texts: (i) => (taps[i] < 0 ? "0" : label(i)), marked: (i) => Math.floor(i / shape[1]) === crop.unit }),
        row(crop, values, y, shape),
        el("p", { class: "note" }, `The whole layer as a dense one would have ${paint.grouped(all)} weights; the convolution's kernel has ${paint.grouped(own)}.`),
      ];
    }

    function backward(node, source, crop) {
      dy ??= Float64Array.from({ length: crop.outputs[0] * crop.outputs[1] }, (_, o) => +(o === crop.unit));
      const { padded, kernel, dx, read } = windows.backward(crop, dy);
      target ??= read.length && dx.reduce((best, value, i) => (Math.abs(value) > Math.abs(dx[best]) ? i : best), 0);
      const under = read(target), patch = under.map((at) => padded.values[at]), products = patch.map((value, tap) => value * kernel[tap]);
      const next = (o) => ((dy[o] = GRADIENTS[(GRADIENTS.indexOf(dy[o]) + 1) % GRADIENTS.length]), draw());
      const small = crop.inputs[1] > 9, large = crop.inputs[1] > 16, plain = large ? { texts: () => "" } : {};
      return [
        el("p", {}, "∂L/∂x = the gradient of the output, padded, under the kernel turned by half a turn. Click the gradient to change it (0, 1, −1), and an element of the result to see what makes it."),
        el("div", { class: "products" },
          numbers.matrix(dy, crop.outputs, "∂L/∂y, chosen", { bound: 1, pick: next }),
          numbers.sign("→"),
          numbers.matrix(padded.values, padded.shape, "padded", { bound: 1, small: true, grey: (i) => !padded.real[i], texts: (i) => (padded.real[i] ? paint.short(padded.values[i]) : ""), marked: (i) => under.includes(i) }),
          numbers.sign("∗"),
          numbers.matrix(kernel, crop.window, "kernel, turned", { small: crop.window[1] > 5 }),
          numbers.sign("="),
          numbers.matrix(dx, crop.inputs, `∂L/∂x on map ${channel}`, { small, ...plain, pick: (i) => ((target = i), draw()), marked: (i) => i === target })),
        el("p", { class: "terms" }, `∂L/∂x at (${crop.from[0] + Math.floor(target / crop.inputs[1])}, ${crop.from[1] + (target % crop.inputs[1])}) = `,
          patch.map((value, tap) => [value, kernel[tap]]).filter(([value]) => value).map(([value, weight], i) => `${i ? " + " : ""}${number(value)}·${weight < 0 ? `(${number(weight)})` : number(weight)}`).join("") || "0",
          " = ", el("b", { id: "backward-sum" }, number(products.reduce((sum, value) => sum + value, 0), 4)), crop.padding[target] ? " (in the padding: it reaches no pixel)" : ""),
        crop.stride.some((step) => step > 1) && el("p", { class: "note" }, `With stride ${crop.stride.join("×")}, zeros stand between the gradient's elements.`),
      ];
    }

    open(0);
    return { element: el("div", {}, controls, list, panel), draw, choose, open };
  }

  return { make };
})();
