// One convolution, written in five ways, and backwards: arithmetic alone, on a crop of one map.
//
// A crop holds the outputs around a unit, (oh, ow), and the inputs that they read, (ih, iw), padding as zeros.

const windows = (() => {
  "use strict";
  const MOST_INPUTS = 100; // beyond, a crop has 2 x 2 outputs instead of 3 x 3

  function crop(state, one, channel) {
    const node = state.nodes[one.node], source = node.inputs[0], [H, W, C] = state.nodes[source].shape;
    const { window, stride, dilation, low } = node.options, x = state.values[source], [OH, OW, F] = node.shape;
    const read = (count) => [0, 1].map((a) => (count[a] - 1) * stride[a] + dilation[a] * (window[a] - 1) + 1);
    const within = (count) => [Math.min(count, OH), Math.min(count, OW)];
    const wide = read(within(3));
    const outputs = wide[0] * wide[1] > MOST_INPUTS ? within(2) : within(3), inputs = read(outputs);
    const first = [one.y, one.x].map((at, a) => Math.max(0, Math.min(at - (outputs[a] >> 1), node.shape[a] - outputs[a])));
    const from = first.map((at, a) => at * stride[a] - low[a]);
    const cropped = {
      window, stride, dilation, outputs, inputs, first, from, C, F,
      unit: (one.y - first[0]) * outputs[1] + one.x - first[1],
      x: new Float64Array(inputs[0] * inputs[1]), padding: new Uint8Array(inputs[0] * inputs[1]),
      kernel: Float64Array.from({ length: window[0] * window[1] }, (_, tap) => unit.weight(node, tap, channel, one.c, C)),
    };
    for (let i = 0; i < cropped.x.length; i++) {
      const y = from[0] + Math.floor(i / inputs[1]), u = from[1] + (i % inputs[1]);
      if (y < 0 || u < 0 || y >= H || u >= W) cropped.padding[i] = 1;
      else cropped.x[i] = x[(y * W + u) * C + channel];
    }
    return cropped;
  }

  // Calls visit(output, input, tap) for each connection of a crop.
  function eachConnection({ window, stride, dilation, outputs, inputs }, visit) {
    for (let o = 0; o < outputs[0] * outputs[1]; o++)
      for (let tap = 0; tap < window[0] * window[1]; tap++) {
        const y = Math.floor(o / outputs[1]) * stride[0] + Math.floor(tap / window[1]) * dilation[0];
        const x = (o % outputs[1]) * stride[1] + (tap % window[1]) * dilation[1];
        visit(o, y * inputs[1] + x, tap);
      }
  }

  // The tap of each element of the matrix, outputs by inputs; -1 where it is zero.
  function toeplitzTaps(cropped) {
    const taps = new Int32Array(cropped.outputs[0] * cropped.outputs[1] * cropped.x.length).fill(-1);
    eachConnection(cropped, (o, i, tap) => (taps[o * cropped.x.length + i] = tap));
    return taps;
  }

  // The patches as rows: outputs by taps.
  function im2col(cropped) {
    const taps = cropped.kernel.length, rows = new Float64Array(cropped.outputs[0] * cropped.outputs[1] * taps);
    eachConnection(cropped, (o, i, tap) => (rows[o * taps + tap] = cropped.x[i]));
    return rows;
  }

  // The crop's outputs, of this one map and without the bias.
  function forward(cropped) {
    const y = new Float64Array(cropped.outputs[0] * cropped.outputs[1]);
    eachConnection(cropped, (o, i, tap) => (y[o] += cropped.x[i] * cropped.kernel[tap]));
    return y;
  }

  // The gradient dy (outputs) with stride - 1 zeros between its elements, and d (k - 1) around them: {values, shape, real}.
  function padGradient({ window, stride, dilation, outputs }, dy) {
    const margin = window.map((k, a) => dilation[a] * (k - 1));
    const shape = outputs.map((count, a) => (count - 1) * stride[a] + 1 + 2 * margin[a]);
    const values = new Float64Array(shape[0] * shape[1]), real = new Uint8Array(values.length);
    dy.forEach((value, o) => {
      const at = (margin[0] + Math.floor(o / outputs[1]) * stride[0]) * shape[1] + margin[1] + (o % outputs[1]) * stride[1];
      values[at] = value;
      real[at] = 1;
    });
    return { values, shape, real };
  }

  // The kernel turned by half a turn.
  const turned = (kernel) => Float64Array.from(kernel).reverse();

  // The turned kernel over the padded gradient, stride 1: the input's gradient (ih, iw), and what makes one element of it.
  function backward(cropped, dy) {
    const padded = padGradient(cropped, dy), kernel = turned(cropped.kernel), { window, dilation, inputs } = cropped;
    const read = (i) => Array.from(kernel, (_, tap) => {
      const y = Math.floor(i / inputs[1]) + Math.floor(tap / window[1]) * dilation[0];
      return y * padded.shape[1] + (i % inputs[1]) + (tap % window[1]) * dilation[1];
    });
    const dx = Float64Array.from({ length: inputs[0] * inputs[1] }, (_, i) => read(i).reduce((sum, at, tap) => sum + padded.values[at] * kernel[tap], 0));
    return { padded, kernel, dx, read };
  }

  return { backward, crop, eachConnection, forward, im2col, padGradient, toeplitzTaps, turned };
})();
