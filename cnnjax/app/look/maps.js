// A card for each layer with all its maps. A canvas below holds the maps, one above it the marks.

const maps = (() => {
  "use strict";
  const { el } = paint;
  const GAP = 6, FEW = 32; // pixels between maps; maps that are shown at first
  const KIND = { conv: "convolution", linear: "dense layer", max_pool: "maximum pool", avg_pool: "average pool", subsample: "subsampling", batch_norm: "batch norm", local_response_norm: "local response normalisation", global_avg_pool: "mean over all pixels", global_max_pool: "maximum over all pixels", rbf: "squared distances to the bitmaps", relu: "ReLU", sigmoid: "sigmoid", tanh: "tanh", exp: "exp", scaled_tanh: "scaled tanh", scale: "scale", negate: "negative", add: "sum", flatten: "flattened", dropout: "dropout, which does nothing after training", input: "input" };

  const kind = (node) => KIND[node.kind];
  const isFlat = (node) => node.shape.length === 1 || (node.shape[0] === 1 && node.shape[1] === 1);

  // The words for a node: how its windows lie.
  function summary(node) {
    const { window, stride } = node.options;
    const windows = window ? ` ${window.join("×")}${stride.some((step) => step > 1) ? `, stride ${stride.join("×")}` : ""}` : "";
    return `${kind(node)}${windows}`;
  }

  // state: {nodes, values, pixels, unit}; choose(unit, pin) is called for the unit under the pointer, null when it leaves.
  function make(state, choose) {
    const cards = state.nodes.map((node, number) => card(state, number, choose));
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const one = cards.find((card) => card.element === entry.target);
        one.visible = entry.isIntersecting;
        if (one.visible) one.draw();
      }
    }, { rootMargin: "300px" });
    cards.forEach((one) => seen.observe(one.element));
    new ResizeObserver(() => cards.forEach((one) => one.lay())).observe(cards[0].element);
    return {
      elements: cards.map((one) => one.element),
      draw: () => cards.forEach((one) => ((one.stale = true), one.draw())),
      mark: (marks) => cards.forEach((one, number) => one.mark(marks?.(number))),
    };
  }

  function card(state, number, choose) {
    const node = state.nodes[number], flat = isFlat(node), first = number === 0;
    const [H, W, C] = flat ? [1, 1, node.shape.at(-1)] : node.shape;
    const tiles = first ? 1 : C;
    const base = el("canvas"), marks = el("canvas", { class: "marks" });
    const legend = el("span", { class: "legend-place" });
    const stack = el("div", {
      class: "maps", tabindex: 0, role: "application", "aria-roledescription": "maps",
      "aria-label": `${node.name}, ${summary(node)}, ${paint.by(node.shape)}. Arrow keys choose a unit, Page Up and Page Down a map, Enter pins it.`,
    }, base, marks);
    const more = tiles > FEW && !flat ? el("button", { type: "button", class: "quiet", "aria-expanded": "false", onclick: () => { all = !all; more.setAttribute("aria-expanded", all); lay(); } }) : null;
    const element = el("article", { class: "card", id: `layer-${number}` },
      el("header", {}, el("h3", {}, node.name), el("span", { class: "what" }, `${summary(node)} · `, el("b", {}, paint.by(node.shape))), legend), stack, more);
    const self = { element, visible: number < 3, stale: true, draw, lay, mark };
    let all = false, columns = 1, side = 1, count = tiles, wide = 0;

    // Chooses how many maps stand in a row, and how large.
    function lay() {
      const width = stack.clientWidth || 600;
      if (wide === width * 2 + all) return;
      wide = width * 2 + all;
      count = all || flat ? tiles : Math.min(tiles, FEW);
      side = flat ? (tiles <= 20 ? 34 : tiles <= 150 ? 20 : 13) : first ? Math.max(1, Math.floor(Math.min(256, width) / W)) : Math.max(1, Math.floor(Math.max(70, Math.min(140, (width + GAP) / C - GAP)) / W));
      while (side > 1 && side * W > width) side--;
      const gap = flat ? 2 : GAP;
      columns = Math.max(1, Math.min(count, Math.floor((width + gap) / (side * W + gap))));
      const rows = Math.ceil(count / columns);
      for (const canvas of [base, marks]) {
        canvas.width = columns * (side * W + gap) - gap;
        canvas.height = rows * (side * H + gap) - gap;
      }
      stack.style.height = `${base.height}px`;
      if (more) more.textContent = all ? `Show ${FEW} maps` : `Show all ${tiles} maps`;
      self.stale = true;
      draw();
    }

    const gap = flat ? 2 : GAP;
    const corner = (tile) => [(tile % columns) * (side * W + gap), Math.floor(tile / columns) * (side * H + gap)];

    function draw() {
      if (!self.visible || !self.stale || !state.values) return;
      self.stale = false;
      const context = base.getContext("2d"), values = state.values[number];
      context.clearRect(0, 0, base.width, base.height);
      if (first) return paint.pixels(context, H, W, paint.photograph(state.pixels, C), 0, 0, side);
      const bound = paint.largest(values);
      legend.replaceChildren(paint.legend(bound));
      for (let tile = 0; tile < count; tile++) {
        const [x, y] = corner(tile);
        paint.pixels(context, H, W, (i) => paint.colour(values[i * C + tile], bound), x, y, side);
        if (flat && tiles <= 20) {
          context.fillStyle = paint.inkOn(paint.colour(values[tile], bound));
          context.font = "11px system-ui, sans-serif";
          context.textAlign = "center";
          context.fillText(paint.short(values[tile]), x + side / 2, y + side / 2 + 4);
        }
      }
    }

    // Marks units: {unit, pixels: Uint8Array (H * W) or (N), channels: numbers of maps, or all}.
    function mark(what) {
      const context = marks.getContext("2d"), style = getComputedStyle(document.documentElement);
      context.clearRect(0, 0, marks.width, marks.height);
      if (!what) return;
      const accent = style.getPropertyValue("--accent").trim();
      if (what.pixels) {
        context.fillStyle = context.strokeStyle = accent;
        const chosen = first ? [0] : what.channels ?? Array.from({ length: count }, (_, i) => i);
        for (const tile of chosen) if (tile < count) outline(context, tile, what.pixels);
      }
      if (what.unit) {
        const [x, y] = corner(first ? 0 : what.unit.c);
        context.strokeStyle = accent;
        if (flat) {
          context.lineWidth = 3;
          return context.strokeRect(x + 1.5, y + 1.5, side - 3, side - 3);
        }
        context.lineWidth = 2;
        const [u, v] = [what.unit.x, what.unit.y];
        context.strokeRect(x + u * side - 1, y + v * side - 1, side + 2, side + 2);
        context.strokeStyle = style.getPropertyValue("--surface").trim();
        context.lineWidth = 1;
        context.strokeRect(x + u * side + 0.5, y + v * side + 0.5, side - 1, side - 1);
      }
    }

    // The outline of marked pixels on a map, and a veil over them.
    function outline(context, tile, pixels) {
      const [x, y] = corner(tile);
      if (flat) {
        if (pixels[pixels.length === 1 ? 0 : tile]) context.globalAlpha = 0.9, context.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1), context.globalAlpha = 1;
        return;
      }
      const on = (v, u) => v >= 0 && u >= 0 && v < H && u < W && pixels[v * W + u];
      for (let v = 0; v < H; v++)
        for (let u = 0; u < W; u++) {
          if (!on(v, u)) continue;
          context.globalAlpha = 0.16;
          context.fillRect(x + u * side, y + v * side, side, side);
          context.globalAlpha = 1;
          const thick = first ? 2 : 1.5, [px, py] = [x + u * side, y + v * side];
          if (!on(v - 1, u)) context.fillRect(px, py, side, thick);
          if (!on(v + 1, u)) context.fillRect(px, py + side - thick, side, thick);
          if (!on(v, u - 1)) context.fillRect(px, py, thick, side);
          if (!on(v, u + 1)) context.fillRect(px + side - thick, py, thick, side);
        }
    }

    // The unit below a place of the canvas; null between maps.
    function locate(event) {
      const box = marks.getBoundingClientRect();
      const px = ((event.clientX - box.left) / box.width) * marks.width, py = ((event.clientY - box.top) / box.height) * marks.height;
      const tile = Math.floor(py / (side * H + gap)) * columns + Math.floor(px / (side * W + gap));
      const [x, y] = corner(tile), u = Math.floor((px - x) / side), v = Math.floor((py - y) / side);
      if (tile < 0 || tile >= count || u < 0 || v < 0 || u >= W || v >= H) return null;
      return { node: number, y: v, x: u, c: tile };
    }

    stack.addEventListener("pointermove", (event) => choose(locate(event), false));
    stack.addEventListener("pointerleave", () => choose(null, false));
    stack.addEventListener("click", (event) => choose(locate(event), true));
    const middle = () => ({ node: number, y: H >> 1, x: W >> 1, c: 0 });
    stack.addEventListener("keydown", (event) => {
      const unit = state.unit?.node === number ? { ...state.unit } : middle();
      const move = { ArrowUp: ["y", -1], ArrowDown: ["y", 1], ArrowLeft: ["x", -1], ArrowRight: ["x", 1], PageUp: ["c", -1], PageDown: ["c", 1] }[event.key];
      if (move) {
        const axis = flat && move[0] === "x" ? "c" : move[0];
        unit[axis] = Math.max(0, Math.min({ y: H, x: W, c: tiles }[axis] - 1, unit[axis] + move[1]));
        if (unit.c >= count) { all = true; lay(); }
        choose(unit, "keyboard");
      } else if (event.key === "Enter" || event.key === " ") choose(unit, true);
      else return;
      event.preventDefault();
    });
    return self;
  }

  return { isFlat, kind, make, summary };
})();
