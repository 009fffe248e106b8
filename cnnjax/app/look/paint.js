// Elements, numbers and colours.

const paint = (() => {
  "use strict";

  // el("p", {class: "note", onclick: f}, "text", child): an element; text is never read as HTML.
  function el(tag, attributes = {}, ...children) {
    const svg = ["svg", "path", "line", "rect", "circle", "text", "g", "polyline", "title"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value != null) made.setAttribute(name, value);
    }
    made.append(...children.flat().filter((child) => child != null && child !== false));
    return made;
  }

  // Three significant digits, a true minus sign.
  function number(value, digits = 3) {
    if (!Number.isFinite(value)) return String(value).replace("-", "−");
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size >= 1e5 || size < 1e-3 ? value.toExponential(digits - 2) : String(+value.toPrecision(digits));
    return text.replace(/-/g, "−");
  }

  // Two decimals for cells of matrices, without a leading zero: .42, −1.3, 12.
  function short(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size >= 99.5 ? Math.round(value).toString() : size >= 9.95 ? value.toFixed(0) : size >= 0.995 ? value.toFixed(1) : value.toFixed(2);
    return text.replace(/^-?0\.00$/, "0.00").replace(/^(-?)0\./, "$1.").replace("-", "−");
  }

  const grouped = (count) => count.toLocaleString("en");
  const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share < 0.0995 ? 1 : 0)} %`;
  const by = (sizes) => sizes.join(" × ");

  let scale = null; // the colours of −1, 0 and 1

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim().match(/\w\w/g).map((pair) => parseInt(pair, 16));
    scale = { negative: read("--negative"), zero: read("--zero"), positive: read("--positive") };
  }

  // The colour of a value on the scale from -bound to bound, as [red, green, blue].
  function colour(value, bound) {
    const share = bound > 0 ? Math.max(-1, Math.min(1, value / bound)) : 0;
    const end = share < 0 ? scale.negative : scale.positive, size = Math.abs(share) ** 0.8; // small values too are seen
    return scale.zero.map((from, i) => Math.round(from + (end[i] - from) * size));
  }

  const css = ([r, g, b]) => `rgb(${r},${g},${b})`;
  const inkOn = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#14171c" : "#ffffff");

  const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

  const buffer = document.createElement("canvas");

  // Draws H x W pixels, whose colours pixel(i) gives, at (x, y), each as a square of `side`.
  function pixels(context, H, W, pixel, x, y, side) {
    buffer.width = W;
    buffer.height = H;
    const ink = buffer.getContext("2d"), image = ink.createImageData(W, H);
    for (let i = 0; i < H * W; i++) {
      const [r, g, b] = pixel(i);
      image.data.set([r, g, b, 255], 4 * i);
    }
    ink.putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(buffer, x, y, W * side, H * side);
  }

  // The colours of an image (H, W, C) of bytes.
  const photograph = (image, C) => (i) => (C === 3 ? [image[3 * i], image[3 * i + 1], image[3 * i + 2]] : [image[i], image[i], image[i]]);

  // A canvas that shows an image (H, W, C), about `width` wide.
  function picture(image, [H, W, C], width, attributes = {}) {
    const side = Math.max(1, Math.round(width / W));
    const canvas = el("canvas", { width: W * side, height: H * side, class: "picture", ...attributes });
    pixels(canvas.getContext("2d"), H, W, photograph(image, C), 0, 0, side);
    return canvas;
  }

  // The scale of a layer's colours.
  const legend = (bound) =>
    el("span", { class: "legend", role: "img", "aria-label": `colours from ${number(-bound)} over 0 to ${number(bound)}` },
      el("span", {}, number(-bound)), el("span", { class: "ramp" }), el("span", {}, number(bound)));

  return { by, colour, css, el, grouped, inkOn, largest, legend, number, percent, photograph, picture, pixels, readColours, short };
})();
