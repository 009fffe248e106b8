// The image that the net sees: drawn, chosen from the test set, or dropped in.

const picture = (() => {
  "use strict";
  const { el } = paint;
  const SIDE = 280; // of the canvas, in its own pixels

  // Returns {element, show(pixels)}; changed(pixels, how) is called with (H, W, C) bytes at each stroke.
  function make(data, shape, changed) {
    const [H, W, C] = shape, { side, centre, inverted } = data.drawing;
    const digits = side > 0; // strokes are centred and scaled; else they go onto the image
    const canvas = el("canvas", {
      width: SIDE, height: SIDE, class: "draw", tabindex: 0, id: "draw-canvas", role: "img",
      "aria-label": digits
        ? "Drawing area: draw a digit with mouse, pen or finger. By keyboard: choose a test example below."
        : "Drawing area: strokes go onto the image. By keyboard: choose a test example below.",
    });
    const ink = canvas.getContext("2d", { willReadFrequently: true });
    let last = null;

    function clear() {
      ink.fillStyle = "#000";
      ink.fillRect(0, 0, SIDE, SIDE);
    }

    function place(event) {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
    }

    // A soft stroke: a wide faint line below a narrower bright one.
    function stroke(from, to) {
      ink.lineCap = ink.lineJoin = "round";
      for (const [width, colour] of [[31, "rgba(255,255,255,0.25)"], [26, "rgba(255,255,255,0.5)"], [20, "#fff"]]) {
        ink.lineWidth = width * (digits ? 1 : 0.6);
        ink.strokeStyle = colour;
        ink.beginPath();
        ink.moveTo(...from);
        ink.lineTo(to[0] + 0.01, to[1]);
        ink.stroke();
      }
    }

    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      if (digits && shown) clear(); // a new drawing begins on an empty ground
      shown = false;
      last = place(event);
      stroke(last, last);
      changed(read(), "drawing");
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      for (const one of event.getCoalescedEvents?.() ?? [event]) {
        const next = place(one);
        stroke(last, next);
        last = next;
      }
      changed(read(), "drawing");
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));

    // The canvas' gray values, 0 to 1.
    function grays() {
      const { data: rgba } = ink.getImageData(0, 0, SIDE, SIDE);
      return Float32Array.from({ length: SIDE * SIDE }, (_, i) => rgba[4 * i] / 255);
    }

    // The drawing as the net's image: of digits the box around the ink is scaled to the data set's, its centre of mass put
    // where theirs lies.
    function read() {
      if (!digits) return shrunk();
      const gray = grays();
      let top = SIDE, bottom = -1, left = SIDE, right = -1, mass = 0, my = 0, mx = 0;
      gray.forEach((value, i) => {
        if (value < 0.2) return;
        const y = Math.floor(i / SIDE), x = i % SIDE;
        [top, bottom, left, right] = [Math.min(top, y), Math.max(bottom, y), Math.min(left, x), Math.max(right, x)];
        mass += value;
        my += value * y;
        mx += value * x;
      });
      const found = new Uint8Array(H * W);
      if (bottom >= 0) {
        const step = Math.max(bottom - top + 1, right - left + 1, SIDE / 5) / side; // pixels of the canvas in one of the image
        for (let y = 0; y < H; y++)
          for (let x = 0; x < W; x++)
            found[y * W + x] = Math.round(255 * mean(gray, my / mass + 0.5 + (y - centre[0]) * step, mx / mass + 0.5 + (x - centre[1]) * step, step));
      }
      const image = coarse(found);
      return inverted ? image.map((value) => 255 - value) : image;
    }

    // Images that were enlarged for the net, as those of 8 x 8, are no sharper than they were: so a drawing becomes too.
    function coarse(image) {
      const [h, w] = data.stored ?? [H, W], { times, top, left } = margins(h, w);
      if (times === 1) return image;
      const small = new Uint8Array(h * w);
      for (let i = 0; i < small.length; i++) {
        let sum = 0;
        for (let t = 0; t < times * times; t++)
          sum += image[(top + times * Math.floor(i / w) + Math.floor(t / times)) * W + left + times * (i % w) + (t % times)];
        small[i] = Math.round(sum / times ** 2);
      }
      return padded(small, h, w);
    }

    // The mean of a square around (y, x).
    function mean(gray, y, x, side) {
      const from = (middle) => Math.round(middle - side / 2), to = (middle) => Math.max(from(middle) + 1, Math.round(middle + side / 2));
      let sum = 0;
      for (let v = from(y); v < to(y); v++)
        for (let u = from(x); u < to(x); u++) if (v >= 0 && v < SIDE && u >= 0 && u < SIDE) sum += gray[v * SIDE + u];
      return sum / ((to(y) - from(y)) * (to(x) - from(x)));
    }

    function shrunk() {
      const small = el("canvas", { width: W, height: H }), to = small.getContext("2d");
      to.imageSmoothingQuality = "high";
      to.drawImage(canvas, 0, 0, W, H);
      return bytesOf(to.getImageData(0, 0, W, H).data, C);
    }

    let shown = false; // an example, or an image of the user's

    // Shows an image (H, W, C) on the canvas.
    function show(image) {
      shown = true;
      paint.pixels(ink, H, W, paint.photograph(image, C), 0, 0, SIDE / W);
    }

    // An image file: fitted into the net's input, gray where it is gray, turned where the ground is of the other kind.
    async function take(file) {
      const bitmap = await createImageBitmap(file);
      const [h, w] = data.stored ?? [H, W];
      const small = el("canvas", { width: w, height: h }), to = small.getContext("2d", { willReadFrequently: true });
      const scale = Math.max(w / bitmap.width, h / bitmap.height); // the shorter side fits, the centre is kept
      to.imageSmoothingQuality = "high";
      to.drawImage(bitmap, (w - scale * bitmap.width) / 2, (h - scale * bitmap.height) / 2, scale * bitmap.width, scale * bitmap.height);
      let found = bytesOf(to.getImageData(0, 0, w, h).data, C);
      const border = Array.from(found).filter((_, i) => {
        const y = Math.floor(i / C / w), x = Math.floor(i / C) % w;
        return !y || !x || y === h - 1 || x === w - 1;
      });
      const ground = border.reduce((sum, value) => sum + value, 0) / border.length / 255;
      if (digits && ground > 0.5 !== inverted) found = found.map((value) => 255 - value);
      const image = padded(found, h, w);
      show(image);
      changed(image, file.name);
    }

    function margins(h, w) {
      const times = Math.max(1, Math.min(Math.floor(Math.min(28, H) / h), Math.floor(Math.min(28, W) / w)));
      return { times, top: Math.floor((H - times * h) / 2), left: Math.floor((W - times * w) / 2) };
    }

    // A smaller image in the middle of the net's, enlarged by a whole number while it stays within 28 pixels.
    function padded(image, h, w) {
      if (h === H && w === W) return image;
      const { times, top, left } = margins(h, w);
      const from = el("canvas", { width: w, height: h }), to = el("canvas", { width: W, height: H });
      paint.pixels(from.getContext("2d"), h, w, paint.photograph(image, C), 0, 0, 1);
      const context = to.getContext("2d");
      context.fillRect(0, 0, W, H);
      context.drawImage(from, left, top, times * w, times * h);
      return bytesOf(context.getImageData(0, 0, W, H).data, C);
    }

    clear();
    const input = el("input", { type: "file", accept: "image/*", class: "hidden", id: "file", onchange: () => input.files[0] && take(input.files[0]).catch(refuse) });
    const note = el("p", { class: "note", role: "status" });
    const refuse = () => (note.textContent = "This file is not an image that the browser can read.");
    const frame = el("div", { class: "frame" }, canvas);
    frame.addEventListener("dragover", (event) => event.preventDefault());
    frame.addEventListener("drop", (event) => {
      event.preventDefault();
      const file = event.dataTransfer.files[0];
      if (file) take(file).catch(refuse);
    });
    const element = el("div", { class: "drawing" }, frame,
      el("div", { class: "buttons" },
        el("button", { type: "button", onclick: () => { clear(); shown = false; changed(read(), "drawing"); }, id: "clear" }, "Clear"),
        el("label", { class: "button", for: "file", tabindex: 0, onkeydown: (event) => ["Enter", " "].includes(event.key) && input.click() }, "Open an image"), input),
      el("p", { class: "note" }, digits ? "Draw here, or drop an image." : "Draw on the image, or drop another."), note);
    return { element, show };
  }

  // Colour as it is, or gray as 0.299 red + 0.587 green + 0.114 blue.
  function bytesOf(rgba, C) {
    const count = rgba.length / 4;
    if (C === 3) return Uint8Array.from({ length: 3 * count }, (_, i) => rgba[4 * Math.floor(i / 3) + (i % 3)]);
    return Uint8Array.from({ length: count }, (_, i) => Math.round(0.299 * rgba[4 * i] + 0.587 * rgba[4 * i + 1] + 0.114 * rgba[4 * i + 2]));
  }

  return { make };
})();
