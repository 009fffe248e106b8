// The run: curves, confusion matrix, surest mistakes, layer table.

const run = (() => {
  "use strict";
  const { el, number } = paint;
  const W = 460, H = 250, LEFT = 56, BELOW = 40, RIGHT = 14, ABOVE = 12;
  const SHADE = { train: "train", validation: "validation", test: "test" };

  const isAccuracy = (name) => /accuracy|top\d/.test(name);

  // One quantity over the epochs; of an accuracy the error. Both on a log scale where all values are above 0.
  function curve({ name, splits }) {
    const error = isAccuracy(name), height = (value) => (value == null ? null : error ? 1 - value : value);
    const heights = Object.values(splits).flatMap(([, values]) => values.map(height)).filter((value) => value != null && value > 0);
    const epochs = Object.values(splits).flatMap(([at]) => at), last = Math.max(...epochs, 1), log = Math.log10;
    const [low, high] = heights.length ? [log(Math.min(...heights)), log(Math.max(...heights))] : [-1, 0];
    const [from, to] = [low - 0.05 * (high - low || 1), high + 0.05 * (high - low || 1)];
    const x = (epoch) => LEFT + ((W - LEFT - RIGHT) * epoch) / last;
    const y = (value) => ABOVE + (H - ABOVE - BELOW) * (1 - (log(Math.max(value, 10 ** from)) - from) / (to - from));
    const ticks = [];
    for (let power = Math.floor(from); power <= to; power++)
      for (const digit of to - from > 2.5 ? [1] : to - from > 1.2 ? [1, 3] : [1, 2, 5]) if (digit * 10 ** power >= 10 ** from && digit * 10 ** power <= 10 ** to) ticks.push(digit * 10 ** power);
    const label = (tick) => (error ? `${+(100 * tick).toPrecision(2)} %` : +tick.toPrecision(2));
    const parts = ticks.map((tick) => [el("line", { x1: LEFT, x2: W - RIGHT, y1: y(tick), y2: y(tick), class: "grid" }), el("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, label(tick))]);
    const step = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((one) => last / one <= 6) ?? last;
    parts.push([el("text", { x: W - RIGHT, y: H - 2, "text-anchor": "end" }, "epoch")]);
    for (let epoch = 0; epoch <= last; epoch += step) parts.push([el("text", { x: x(epoch), y: H - BELOW + 18, "text-anchor": "middle" }, epoch)]);
    for (const [split, [at, values]] of Object.entries(splits)) {
      const points = at.map((epoch, i) => [epoch, height(values[i])]).filter(([, value]) => value != null);
      parts.push([el("polyline", { class: `curve ${SHADE[split]}`, points: points.map(([epoch, value]) => `${x(epoch).toFixed(1)},${y(value).toFixed(1)}`).join(" ") })]);
      if (points.length < 40) parts.push(points.map(([epoch, value]) => el("circle", { class: `point ${SHADE[split]}`, cx: x(epoch), cy: y(value), r: 2.5 })));
    }
    const ends = Object.entries(splits).map(([split, [, values]]) => el("li", { class: SHADE[split] }, `${split}: `, el("b", {}, error ? `${number(100 * height(values.at(-1)))} %` : number(height(values.at(-1)) ?? NaN))));
    const title = error ? `${name.replace("accuracy", "error") === name ? `1 − ${name}` : name.replace("accuracy", "error")}` : name;
    return el("figure", {}, el("figcaption", {}, `${title} over the epochs`), el("svg", { viewBox: `0 0 ${W} ${H}`, class: "chart", role: "img", "aria-label": `${title} over ${last} epochs; at the end ${ends.map((one) => one.textContent).join(", ")}` }, parts.flat(2)), el("ul", { class: "key" }, ends));
  }

  // A test example as a button that shows it to the net.
  function example(state, i, take, below) {
    const { labels, predicted, confidence, numbers: places } = state.data.examples, names = state.data.classes, right = labels[i] === predicted[i];
    const words = `test ${places[i]}, ${names[labels[i]]}, predicted ${names[predicted[i]]} with ${paint.percent(confidence[i])}`;
    return el("button", { type: "button", class: `example${right ? "" : " wrong"}`, title: words, "aria-label": words, onclick: () => take(i) }, paint.picture(state.examples[i], state.nodes[0].shape, 56, { "aria-hidden": "true" }), below?.(i).map((line) => el("span", {}, line)));
  }

  function confusion(state, take) {
    const { confusion: counts, classes, examples } = state.data, out = el("div", { class: "examples", role: "status" });
    const many = classes.length > 20;
    const show = (row, column) => {
      const found = examples.labels.map((label, i) => i).filter((i) => examples.labels[i] === row && examples.predicted[i] === column);
      const count = counts[row][column];
      out.replaceChildren(el("p", {}, `${classes[row]} predicted as ${classes[column]}: ${paint.grouped(count)} of ${paint.grouped(counts[row].reduce((a, b) => a + b, 0))}${found.length < count ? `; the page holds ${found.length} of them` : ""}`), el("div", { class: "strip" }, found.slice(0, 60).map((i) => example(state, i, take))));
    };
    const head = el("thead", {}, el("tr", {}, el("td", {}, "true \\ predicted"), classes.map((name) => el("th", { scope: "col" }, name))));
    const body = counts.map((line, row) => {
      const total = line.reduce((a, b) => a + b, 0) || 1;
      return el("tr", {}, el("th", { scope: "row" }, classes[row]), line.map((count, column) => {
        const share = count && (row === column ? Math.sqrt(count / total) : 0.12 + 0.88 * Math.sqrt(count / total)), cell = el("td", { style: `--share:${(100 * share).toFixed(0)}%`, class: row === column ? "right" : "wrong" });
        if (count) cell.append(el("button", { type: "button", "aria-label": `${count} of ${classes[row]} predicted as ${classes[column]}`, onclick: () => show(row, column) }, many ? "" : paint.grouped(count)));
        return cell;
      }));
    });
    return el("div", { class: "pair" }, el("div", { class: "scroll" }, el("table", { class: "confusion" }, el("caption", {}, "Choose a cell to see its examples."), head, el("tbody", {}, body))), out);
  }

  function table(state) {
    const rows = state.data.table, by = (sizes) => (sizes ? paint.by(sizes) : "?"), total = (name) => paint.grouped(rows.reduce((sum, row) => sum + row[name], 0));
    return el("div", { class: "scroll", tabindex: 0 }, el("table", { class: "plain layers" },
      el("thead", {}, el("tr", {}, ["layer", "output", "parameters", "connections", "multiply-adds", "receptive field"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row.layer), el("td", {}, by(row.output)), ...["params", "connections", "macs"].map((name) => el("td", {}, paint.grouped(row[name]))), el("td", {}, by(row.receptive_field))))),
      el("tfoot", {}, el("tr", {}, el("th", { scope: "row" }, "total"), el("td"), ...["params", "connections", "macs"].map((name) => el("td", {}, total(name))), el("td")))));
  }

  // Returns the elements of the section; take(i) shows example i to the net.
  function make(state, take) {
    const { mistakes, wrong, tested, total, classes, examples } = state.data;
    const of = tested < total ? `${paint.grouped(tested)} of the ${paint.grouped(total)} test examples` : `${paint.grouped(tested)} test examples`;
    return [
      state.data.curves.length > 0 && el("section", { "aria-labelledby": "curves" }, el("h3", { id: "curves" }, "Curves"), el("div", { class: "charts" }, state.data.curves.map(curve))),
      el("section", { "aria-labelledby": "confusion" }, el("h3", { id: "confusion" }, "Confusion matrix"), el("p", {}, `${paint.grouped(tested - wrong)} of ${of} are right, ${number((100 * (tested - wrong)) / tested, 4)} %.`), confusion(state, take)),
      el("section", { "aria-labelledby": "mistakes" }, el("h3", { id: "mistakes" }, "Surest mistakes"), el("p", {}, mistakes.length ? "The errors that the net was surest of. Choose one to look inside." : "There are none."),
        el("div", { class: "strip named" }, mistakes.map((i) => example(state, i, take, (one) => [`${classes[examples.predicted[one]]}, ${paint.percent(examples.confidence[one])}`, `true ${classes[examples.labels[one]]}`])))),
      el("section", { "aria-labelledby": "table" }, el("h3", { id: "table" }, "Layer table"), table(state)),
    ].filter(Boolean);
  }

  return { example, make };
})();
