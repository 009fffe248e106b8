// The arithmetic of the layers. Values are Float32Arrays in the order (H, W, C), channels last, as in cnnjax; sums are
// in double precision. A node of the net is {name, kind, inputs, shape, options, arrays}; node 0 is the image.
//
// Windows: tap t of window o reads the input at o * stride + t * dilation - low; what lies outside is padding.

const layers = (() => {
  "use strict";

  const size = (shape) => shape.reduce((product, side) => product * side, 1);

  // Calls visit(tap, pixel) for each tap of window (oy, ox) that lies inside an input of H x W.
  function eachTap({ window, stride, dilation, low }, [H, W], oy, ox, visit) {
    for (let ty = 0; ty < window[0]; ty++) {
      const y = oy * stride[0] + ty * dilation[0] - low[0];
      if (y < 0 || y >= H) continue;
      for (let tx = 0; tx < window[1]; tx++) {
        const x = ox * stride[1] + tx * dilation[1] - low[1];
        if (x >= 0 && x < W) visit(ty * window[1] + tx, y * W + x);
      }
    }
  }

  // y[o, f] = bias[f] + sum over taps t and channels c of x[o stride + t dilation - low, c] kernel[t, c, f]
  function conv(x, node, [H, W, C]) {
    const { kernel, bias } = node.arrays; //                   (window, C / groups, F), (F)
    const [OH, OW, F] = node.shape;
    const G = node.options.groups, inside = C / G, outside = F / G;
    const y = new Float32Array(OH * OW * F), sums = new Float64Array(F);
    for (let oy = 0; oy < OH; oy++)
      for (let ox = 0; ox < OW; ox++) {
        if (bias) sums.set(bias);
        else sums.fill(0);
        eachTap(node.options, [H, W], oy, ox, (tap, pixel) => {
          for (let c = 0; c < C; c++) {
            const value = x[pixel * C + c];
            if (value === 0) continue; //                      after a ReLU half of them are
            const first = Math.floor(c / inside) * outside; // the outputs of the channel's group
            const row = (tap * inside + (c % inside)) * F;
            for (let f = first; f < first + outside; f++) sums[f] += value * kernel[row + f];
          }
        });
        y.set(sums, (oy * OW + ox) * F);
      }
    return y; //                                               (OH, OW, F)
  }

  // y[m] = bias[m] + sum_n x[n] kernel[n, m]
  function linear(x, node) {
    const { kernel, bias } = node.arrays; //                   (N, M), (M)
    const M = node.shape[0], sums = new Float64Array(M);
    if (bias) sums.set(bias);
    for (let n = 0; n < x.length; n++) {
      const value = x[n], row = n * M;
      if (value !== 0) for (let m = 0; m < M; m++) sums[m] += value * kernel[row + m];
    }
    return Float32Array.from(sums); //                         (M)
  }

  // y[o, c] = finish(fold of x over the window's taps inside, number of these taps, c)
  function pool(x, node, [H, W, C], start, fold, finish) {
    const [OH, OW] = node.shape;
    const y = new Float32Array(OH * OW * C), held = new Float64Array(C);
    for (let oy = 0; oy < OH; oy++)
      for (let ox = 0; ox < OW; ox++) {
        let count = 0;
        held.fill(start);
        eachTap(node.options, [H, W], oy, ox, (tap, pixel) => {
          count++;
          for (let c = 0; c < C; c++) held[c] = fold(held[c], x[pixel * C + c]);
        });
        for (let c = 0; c < C; c++) y[(oy * OW + ox) * C + c] = finish(held[c], count, c);
      }
    return y; //                                               (OH, OW, C)
  }

  const add = (a, b) => a + b;

  // y[c] = finish(fold of x over all pixels)
  function over(x, [H, W, C], start, fold, finish) {
    const held = new Float64Array(C).fill(start);
    for (let i = 0; i < x.length; i++) held[i % C] = fold(held[i % C], x[i]);
    return Float32Array.from(held, finish); //                 (C)
  }

  // y[c] = (x[c] - mean[c]) / sqrt(variance[c] + epsilon) * scale[c] + bias[c]
  function batchNorm(x, node) {
    const { mean, variance, scale, bias } = node.arrays; //    (C) each
    const C = mean.length;
    const slope = Array.from(variance, (v, c) => scale[c] / Math.sqrt(v + node.options.epsilon));
    return x.map((value, i) => (value - mean[i % C]) * slope[i % C] + bias[i % C]);
  }

  // y[c] = x[c] / (k + alpha sum_j x[j]^2)^beta, j from c - size // 2 to c + (size - 1) // 2
  function localResponseNorm(x, node) {
    const C = node.shape.at(-1), { size: n, alpha, beta, k } = node.options;
    return x.map((value, i) => {
      const c = i % C;
      let energy = 0;
      const last = Math.min(C - 1, c + ((n - 1) >> 1));
      for (let j = Math.max(0, c - (n >> 1)); j <= last; j++) energy += x[i - c + j] ** 2;
      return value / (k + alpha * energy) ** beta;
    });
  }

  // y[m] = sum_j (x[j] - centres[m, j])^2
  function rbf(x, node) {
    const { centres } = node.arrays, D = x.length; //          (M, D)
    return Float32Array.from({ length: node.shape[0] }, (_, m) =>
      x.reduce((sum, value, j) => sum + (value - centres[m * D + j]) ** 2, 0)); // (M)
  }

  // By kind: (the inputs' values, the node, the first input's shape) -> the output's values.
  const KINDS = {
    conv: ([x], node, shape) => conv(x, node, shape),
    linear: ([x], node) => linear(x, node),
    max_pool: ([x], node, shape) => pool(x, node, shape, -Infinity, Math.max, (largest) => largest),
    avg_pool: ([x], node, shape) =>
      pool(x, node, shape, 0, add, (sum, count) => sum / (node.options.divisor ?? count)),
    subsample: ([x], node, shape) =>
      pool(x, node, shape, 0, add, (sum, count, c) => node.arrays.factor[c] * sum + node.arrays.bias[c]),
    batch_norm: ([x], node) => batchNorm(x, node),
    local_response_norm: ([x], node) => localResponseNorm(x, node),
    global_avg_pool: ([x], node, shape) => over(x, shape, 0, add, (sum) => sum / (shape[0] * shape[1])),
    global_max_pool: ([x], node, shape) => over(x, shape, -Infinity, Math.max, (largest) => largest),
    rbf: ([x], node) => rbf(x, node),
    relu: ([x]) => x.map((value) => (value > 0 ? value : 0)),
    sigmoid: ([x]) => x.map((value) => 1 / (1 + Math.exp(-value))),
    tanh: ([x]) => x.map(Math.tanh),
    exp: ([x]) => x.map(Math.exp),
    scaled_tanh: ([x], node) => x.map((value) => node.options.amplitude * Math.tanh(node.options.slope * value)),
    scale: ([x], node) => x.map((value) => node.options.factor * value),
    negate: ([x]) => x.map((value) => -value),
    add: ([x, other]) => x.map((value, i) => value + other[i]),
    flatten: ([x]) => x,
    dropout: ([x]) => x, //                                    which drops nothing after training
  };

  // Returns the values of all nodes for an image (H, W, C), standardised.
  function run(nodes, image) {
    const values = [image];
    for (const node of nodes.slice(1)) {
      const inputs = node.inputs.map((number) => values[number]);
      values.push(KINDS[node.kind](inputs, node, nodes[node.inputs[0]].shape));
    }
    return values;
  }

  // (pixels / 255 - mean) / std per channel.
  function standardize(pixels, mean, std) {
    const C = mean.length;
    return Float32Array.from(pixels, (value, i) => (value / 255 - mean[i % C]) / std[i % C]);
  }

  function softmax(logits) {
    const largest = Math.max(...logits);
    const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
    const sum = powers.reduce(add, 0);
    return powers.map((power) => power / sum);
  }

  const WINDOWED = ["conv", "max_pool", "avg_pool", "subsample"];
  const DENSE = ["linear", "rbf", "global_avg_pool", "global_max_pool"];

  // Marks the pixels of each node that a pixel of the image reaches: [Uint8Array (H * W)], of vectors (N).
  function reachedBy(nodes, y, x) {
    const marks = nodes.map((node) => new Uint8Array(node.shape.length === 3 ? size(node.shape.slice(0, 2)) : node.shape[0]));
    marks[0][y * nodes[0].shape[1] + x] = 1;
    nodes.forEach((node, number) => {
      for (const source of node.inputs) {
        const before = marks[source], shape = nodes[source].shape, after = marks[number];
        if (DENSE.includes(node.kind)) {
          if (before.includes(1)) after.fill(1);
        } else if (WINDOWED.includes(node.kind)) {
          for (let o = 0; o < after.length; o++)
            eachTap(node.options, shape, Math.floor(o / node.shape[1]), o % node.shape[1], (tap, pixel) => {
              after[o] |= before[pixel];
            });
        } else if (node.kind === "flatten") {
          for (let i = 0; i < after.length; i++) after[i] |= before[Math.floor(i / shape.at(-1))];
        } else for (let i = 0; i < after.length; i++) after[i] |= before[i];
      }
    });
    return marks;
  }

  // Marks the pixels of the image that a unit sees: Uint8Array (H * W). A unit is {node, y, x, c}; of vectors {node, c}.
  function seenBy(nodes, unit) {
    const marks = nodes.map((node) => new Uint8Array(node.shape.length === 3 ? size(node.shape.slice(0, 2)) : node.shape[0]));
    const shape = nodes[unit.node].shape;
    marks[unit.node][shape.length === 3 ? unit.y * shape[1] + unit.x : unit.c] = 1;
    for (let number = unit.node; number > 0; number--) {
      const node = nodes[number], after = marks[number];
      if (!after.includes(1)) continue;
      for (const source of node.inputs) {
        const before = marks[source], from = nodes[source].shape;
        if (DENSE.includes(node.kind)) before.fill(1);
        else if (WINDOWED.includes(node.kind)) {
          after.forEach((seen, o) => {
            if (seen)
              eachTap(node.options, from, Math.floor(o / node.shape[1]), o % node.shape[1], (tap, pixel) => {
                before[pixel] = 1;
              });
          });
        } else if (node.kind === "flatten") {
          after.forEach((seen, i) => seen && (before[Math.floor(i / from.at(-1))] = 1));
        } else after.forEach((seen, i) => seen && (before[i] = 1));
      }
    }
    return marks[0];
  }

  return { KINDS, WINDOWED, eachTap, reachedBy, run, seenBy, size, softmax, standardize };
})();
