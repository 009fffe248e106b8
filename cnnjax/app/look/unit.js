// What makes a unit's value: for each kind of layer the numbers that go into it.

const unit = (() => {
  "use strict";
  const { el, number } = paint;
  const MOST = 12; // terms of a dense layer's sum that are listed

  const index = (shape, { y, x, c }) => (shape.length === 1 ? c : (y * shape[1] + x) * shape[2] + c);
  const where = (shape, { y, x, c }, name = "map") => (shape.length === 1 ? `unit ${c}` : `row ${y}, column ${x}, ${name} ${c}`);
  const mapsOf = (node) => node.shape.at(-1);

  // The input channels that output f of a convolution reads.
  function channelsRead(node, f, C) {
    const inside = C / node.options.groups, first = Math.floor(f / (mapsOf(node) / node.options.groups)) * inside;
    const all = Array.from({ length: inside }, (_, i) => first + i);
    return node.options.links ? all.filter((c) => node.options.links[c][f]) : all;
  }

  // The weight of a tap, an input channel and an output.
  function weight(node, tap, c, f, C) {
    const inside = C / node.options.groups;
    return node.arrays.kernel[(tap * inside + (c % inside)) * mapsOf(node) + f];
  }

  // The window of a unit over one channel of the input: {values, inside} by tap; outside there are zeros.
  function patch(node, x, [H, W, C], { y, x: column }, c) {
    const taps = node.options.window[0] * node.options.window[1];
    const found = { values: new Float64Array(taps), inside: new Uint8Array(taps), pixels: new Int32Array(taps).fill(-1) };
    layers.eachTap(node.options, [H, W], y, column, (tap, pixel) => {
      found.values[tap] = x[pixel * C + c];
      found.inside[tap] = 1;
      found.pixels[tap] = pixel;
    });
    return found;
  }

  // The parts of a convolution's sum: [{c, sum}], largest first in size, and the bias.
  function partialSums(state, one) {
    const node = state.nodes[one.node], source = node.inputs[0], shape = state.nodes[source].shape, C = shape[2];
    const parts = channelsRead(node, one.c, C).map((c) => {
      const { values } = patch(node, state.values[source], shape, one, c);
      return { c, sum: values.reduce((sum, value, tap) => sum + value * weight(node, tap, c, one.c, C), 0) };
    });
    return { parts, bias: node.arrays.bias?.[one.c] ?? 0 };
  }

  const KINDS = {
    conv(state, one, panel) {
      const node = state.nodes[one.node], source = node.inputs[0], shape = state.nodes[source].shape, C = shape[2];
      const { parts, bias } = partialSums(state, one), [ky, kx] = node.options.window;
      const bySize = [...parts].sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum));
      const chosen = parts.find((part) => part.c === panel.channel) ?? bySize[0];
      const { values, inside } = patch(node, state.values[source], shape, one, chosen.c);
      const weights = values.map((_, tap) => weight(node, tap, chosen.c, one.c, C));
      const products = values.map((value, tap) => value * weights[tap]);
      const options = { small: kx > 5, texts: undefined }, grey = (tap) => !inside[tap];
      const shown = (list, caption, more = {}) => numbers.matrix(list, [ky, kx], caption, { ...options, texts: (i) => paint.short(list[i]), ...more });
      const others = parts.reduce((sum, part) => sum + part.sum, 0) - chosen.sum;
      return [
        el("div", { class: "products" }, shown(values, `patch of map ${chosen.c}`, { grey }), numbers.sign("×"), shown(weights, "kernel"), numbers.sign("="), shown(products, "products", { grey })),
        numbers.sum([[chosen.sum, `sum of the products, map ${chosen.c}`], ...(parts.length > 1 ? [[others, `sums of the other ${parts.length - 1} maps`]] : []), ...(node.arrays.bias ? [[bias, "bias"]] : [])], [chosen.sum + others + bias, "value"]),
        parts.length > 1 && [el("h4", {}, parts.length > MOST ? `The ${MOST} largest of ${parts.length} maps` : "Map by map"), numbers.bars(bySize.slice(0, MOST).map(({ c, sum }) => ({ name: `map ${c}`, value: sum, marked: c === chosen.c, pick: () => panel.show(c) })))],
        el("button", { type: "button", onclick: () => panel.toViews(one) }, "See it as five views"),
      ];
    },

    linear(state, one) {
      const node = state.nodes[one.node], x = state.values[node.inputs[0]], M = mapsOf(node);
      const terms = Array.from(x, (value, n) => ({ n, value, weight: node.arrays.kernel[n * M + one.c] }));
      terms.sort((a, b) => Math.abs(b.value * b.weight) - Math.abs(a.value * a.weight));
      const total = terms.reduce((sum, term) => sum + term.value * term.weight, 0), shown = terms.slice(0, MOST);
      const listed = shown.reduce((sum, term) => sum + term.value * term.weight, 0), bias = node.arrays.bias?.[one.c];
      return [
        el("h4", {}, `The ${shown.length} largest of ${x.length} products`),
        numbers.bars(shown.map(({ n, value, weight: w }) => ({ name: `${origin(state, node.inputs[0], n)}: ${number(value)} × ${number(w)}`, value: value * w }))),
        numbers.sum([[listed, "these products"], ...(terms.length > MOST ? [[total - listed, `the other ${terms.length - MOST}`]] : []), ...(bias === undefined ? [] : [[bias, "bias"]])], [total + (bias ?? 0), "value"]),
      ];
    },

    max_pool(state, one) {
      const { values, inside, node } = window_(state, one);
      const winner = values.reduce((best, value, tap) => (inside[tap] && (best < 0 || value > values[best]) ? tap : best), -1);
      const kx = node.options.window[1];
      return [
        numbers.matrix(values, node.options.window, `window on map ${one.c}`, { grey: (tap) => !inside[tap], texts: (tap) => (inside[tap] ? paint.short(values[tap]) : ""), marked: (tap) => tap === winner }),
        el("p", {}, "The winner is ", el("b", {}, number(values[winner], 4)), `, in row ${Math.floor(winner / kx)}, column ${winner % kx} of the window. The gradient goes to it alone.`),
      ];
    },

    avg_pool(state, one) {
      const { values, inside, node } = window_(state, one), total = sumOf(values), count = node.options.divisor ?? sumOf(inside);
      return [plainWindow(values, inside, node, one), el("p", {}, `${number(total, 4)} / ${count} = `, el("b", {}, number(total / count, 4)))];
    },

    subsample(state, one) {
      const { values, inside, node } = window_(state, one), total = sumOf(values), { factor, bias } = node.arrays;
      return [plainWindow(values, inside, node, one), el("p", {}, `factor × sum + bias = ${number(factor[one.c], 4)} × ${number(total, 4)} + ${number(bias[one.c], 4)} = `, el("b", {}, number(factor[one.c] * total + bias[one.c], 4)))];
    },

    batch_norm(state, one) {
      const node = state.nodes[one.node], { mean, variance, scale, bias } = node.arrays, c = one.c, x = before(state, one);
      const value = ((x - mean[c]) / Math.sqrt(variance[c] + node.options.epsilon)) * scale[c] + bias[c];
      return [
        el("p", { class: "formula" }, "(x − mean) / √(variance + ε) × scale + bias"),
        el("p", {}, `(${number(x)} − ${number(mean[c])}) / √(${number(variance[c])} + ${number(node.options.epsilon)}) × ${number(scale[c])} + ${number(bias[c])} = `, el("b", {}, number(value, 4))),
      ];
    },

    local_response_norm(state, one) {
      const node = state.nodes[one.node], { size, alpha, beta, k } = node.options, source = node.inputs[0], shape = state.nodes[source].shape;
      const first = Math.max(0, one.c - (size >> 1)), last = Math.min(mapsOf(node) - 1, one.c + ((size - 1) >> 1));
      const neighbours = Array.from({ length: last - first + 1 }, (_, i) => state.values[source][index(shape, { ...one, c: first + i })]);
      const energy = neighbours.reduce((sum, value) => sum + value * value, 0), x = before(state, one);
      return [
        numbers.matrix(neighbours, [1, neighbours.length], `this pixel on maps ${first} to ${last}`, { marked: (i) => first + i === one.c }),
        el("p", {}, `${number(x)} / (${k} + ${number(alpha)} × ${number(energy)})^${beta} = `, el("b", {}, number(x / (k + alpha * energy) ** beta, 4))),
      ];
    },

    rbf(state, one) {
      const node = state.nodes[one.node], x = state.values[node.inputs[0]], D = x.length;
      const centre = node.arrays.centres.subarray(one.c * D, (one.c + 1) * D), squares = Array.from(x, (value, j) => (value - centre[j]) ** 2);
      const shape = D === 84 ? [12, 7] : [1, D], options = { small: true, texts: () => "" };
      return [
        el("div", { class: "products" }, numbers.matrix(Array.from(x), shape, "features", { ...options, bound: 1.7159 }), numbers.sign("−"), numbers.matrix(Array.from(centre), shape, `bitmap of ${state.data.classes[one.c]}`, { ...options, bound: 1.7159 }), numbers.sign("²"), numbers.matrix(squares, shape, "squares", options)),
        el("p", {}, `The sum of the ${D} squares is `, el("b", {}, number(sumOf(squares), 4)), ". The smallest distance wins."),
      ];
    },

    add(state, one) {
      const node = state.nodes[one.node], parts = node.inputs.map((source) => [state.values[source][index(state.nodes[source].shape, one)], `${state.nodes[source].name}`]);
      return [numbers.sum(parts, [sumOf(parts.map(([value]) => value)), "value"])];
    },

    global_avg_pool(state, one) {
      const node = state.nodes[one.node], source = node.inputs[0], [H, W, C] = state.nodes[source].shape;
      const map = Array.from({ length: H * W }, (_, i) => state.values[source][i * C + one.c]);
      return [numbers.matrix(map, [H, W], `map ${one.c}`, { small: W > 6, texts: W > 8 ? () => "" : undefined }), el("p", {}, `${number(sumOf(map), 4)} / ${H * W} = `, el("b", {}, number(sumOf(map) / (H * W), 4)))];
    },

    global_max_pool(state, one) {
      const node = state.nodes[one.node], source = node.inputs[0], [H, W, C] = state.nodes[source].shape;
      const map = Array.from({ length: H * W }, (_, i) => state.values[source][i * C + one.c]), winner = map.indexOf(Math.max(...map));
      return [numbers.matrix(map, [H, W], `map ${one.c}`, { small: W > 6, texts: W > 8 ? () => "" : undefined, marked: (i) => i === winner })];
    },
  };

  // Functions of one number: the text of f(x).
  const FUNCTIONS = {
    relu: (x) => `max(0, ${x})`, sigmoid: (x) => `1 / (1 + exp(−(${x})))`, tanh: (x) => `tanh(${x})`, exp: (x) => `exp(${x})`, negate: (x) => `−(${x})`,
    scaled_tanh: (x, { amplitude, slope }) => `${number(amplitude, 5)} tanh(${number(slope)} × ${x})`, scale: (x, { factor }) => `${number(factor)} × ${x}`,
    flatten: (x) => x, dropout: (x) => x,
  };

  const sumOf = (values) => values.reduce((sum, value) => sum + value, 0);
  const plainWindow = (values, inside, node, one) => numbers.matrix(values, node.options.window, `window on map ${one.c}`, { grey: (tap) => !inside[tap] });

  function window_(state, one) {
    const node = state.nodes[one.node], source = node.inputs[0];
    return { node, ...patch(node, state.values[source], state.nodes[source].shape, one, one.c) };
  }

  // The value of the same unit in the layer before.
  function before(state, one) {
    const node = state.nodes[one.node], source = node.inputs[0];
    return state.values[source][node.kind === "flatten" ? one.c : index(state.nodes[source].shape, one)];
  }

  // How a dense layer's input is called: of flattened maps by its place.
  function origin(state, source, n) {
    const node = state.nodes[source];
    if (node.kind !== "flatten") return `unit ${n}`;
    const [, W, C] = state.nodes[node.inputs[0]].shape, pixel = Math.floor(n / C);
    return `map ${n % C} (${Math.floor(pixel / W)}, ${pixel % W})`;
  }

  // A pixel of the image: what the net reads there, and how many units of each layer it reaches.
  function pixel(state, one) {
    const [, W, C] = state.nodes[0].shape, marks = layers.reachedBy(state.nodes, one.y, one.x), at = (one.y * W + one.x) * C;
    const rows = state.nodes.slice(1).map((node, i) => {
      const reached = sumOf(marks[i + 1]), flat = node.shape.length === 1;
      return el("tr", {}, el("th", { scope: "row" }, node.name), el("td", {}, `${paint.grouped(reached)} of ${paint.grouped(marks[i + 1].length)}`), el("td", {}, flat ? "units" : "pixels of each map"));
    });
    const list = (values) => Array.from(values, (value) => number(value)).join(", ");
    return [
      el("p", {}, `Brightness ${list(state.pixels.subarray(at, at + C))} of 255; the net reads ${list(state.values[0].subarray(at, at + C))}.`),
      el("h4", {}, "Whom it reaches"),
      el("div", { class: "scroll" }, el("table", { class: "plain" }, el("tbody", {}, rows))),
    ];
  }

  // Returns the elements that explain a unit.
  function explain(state, one, panel) {
    const node = state.nodes[one.node];
    if (one.node === 0) return pixel(state, one);
    if (KINDS[node.kind]) return KINDS[node.kind](state, one, panel);
    const x = before(state, one), text = FUNCTIONS[node.kind](number(x, 4), node.options);
    return [el("p", {}, `${text} = `, el("b", {}, number(value(state, one), 4)))];
  }

  const value = (state, one) => state.values[one.node][index(state.nodes[one.node].shape, one)];

  // What to mark on layer `number` where a unit is chosen.
  function marks(state, one) {
    if (one.node === 0) {
      const reached = layers.reachedBy(state.nodes, one.y, one.x);
      return (number) => (number === 0 ? { unit: one } : { pixels: reached[number] });
    }
    const node = state.nodes[one.node], seen = layers.seenBy(state.nodes, one);
    return (number) => {
      if (number === one.node) return { unit: one };
      if (number === 0) return { pixels: seen };
      const shape = state.nodes[number].shape;
      if (!node.inputs.includes(number) || !layers.WINDOWED.includes(node.kind)) return undefined;
      const pixels = new Uint8Array(shape[0] * shape[1]);
      layers.eachTap(node.options, shape, one.y, one.x, (tap, pixel) => (pixels[pixel] = 1));
      return { pixels, channels: node.kind === "conv" ? channelsRead(node, one.c, shape[2]) : [one.c] };
    };
  }

  return { channelsRead, explain, index, marks, partialSums, patch, value, weight, where };
})();
