// The net of this page, decoded: nodes with typed arrays, and the examples.

const decode = (() => {
  "use strict";

  function bytes(base64) {
    const text = atob(base64), array = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) array[i] = text.charCodeAt(i);
    return array;
  }

  // Arrays lie one behind the other in `weights`, little-endian float32, each {at, shape}.
  function nodes(told, weights) {
    const numbers = new Float32Array(bytes(weights).buffer);
    return told.map((node) => {
      const arrays = {};
      for (const [name, { at, shape }] of Object.entries(node.arrays))
        arrays[name] = numbers.subarray(at, at + layers.size(shape));
      return { ...node, arrays };
    });
  }

  // Images lie one behind the other, (N, H, W, C) bytes.
  function images(base64, count) {
    const all = bytes(base64), each = count ? all.length / count : 0;
    return Array.from({ length: count }, (_, i) => all.subarray(i * each, (i + 1) * each));
  }

  return { bytes, images, nodes };
})();
