// Matrices with coloured cells, and lines of arithmetic.

const numbers = (() => {
  "use strict";
  const { el } = paint;

  // A matrix as a table. Options:
  //   bound: of the colours; texts(i): what a cell says, by default its value; marked(i), grey(i): how it looks;
  //   pick(i): called when a cell is chosen; head, side: values or texts above the columns and beside the rows.
  function matrix(values, [rows, columns], caption, options = {}) {
    const { bound = paint.largest(values), texts = (i) => paint.short(values[i]), marked = () => false, grey = () => false, pick, small } = options;
    const body = el("tbody");
    for (let row = 0; row < rows; row++) {
      const line = el("tr", {}, options.side ? el("th", { scope: "row" }, options.side(row)) : null);
      for (let column = 0; column < columns; column++) {
        const i = row * columns + column, background = paint.colour(values[i], bound);
        const cell = el("td", { class: [marked(i) && "marked", grey(i) && "grey"].filter(Boolean).join(" ") || null });
        if (!grey(i)) cell.style.cssText = `background:${paint.css(background)};color:${paint.inkOn(background)}`;
        if (pick) cell.append(el("button", { type: "button", "aria-label": `row ${row}, column ${column}: ${paint.number(values[i])}`, onclick: () => pick(i) }, texts(i)));
        else cell.textContent = texts(i);
        line.append(cell);
      }
      body.append(line);
    }
    const head = options.head ? el("thead", {}, el("tr", {}, options.side ? el("td") : null, Array.from({ length: columns }, (_, column) => el("th", { scope: "col" }, options.head(column))))) : null;
    const table = el("table", { class: `matrix${small ? " small" : ""}` }, el("caption", {}, caption), head, body);
    return el("div", { class: "scroll", tabindex: columns > 12 ? 0 : null }, table);
  }

  // A large matrix as a picture, one pixel for each element times `side`.
  function pictureOf(values, [rows, columns], caption, { side = 1, bound = paint.largest(values), grey } = {}) {
    const canvas = el("canvas", { width: columns * side, height: rows * side, class: "picture", role: "img", "aria-label": `${caption}, ${rows} rows and ${columns} columns` });
    const zero = getComputedStyle(document.documentElement).getPropertyValue("--grey").trim().match(/\w\w/g).map((pair) => parseInt(pair, 16));
    paint.pixels(canvas.getContext("2d"), rows, columns, (i) => (grey?.(i) ? zero : paint.colour(values[i], bound)), 0, 0, side);
    return el("figure", { class: "whole" }, el("figcaption", {}, caption), el("div", { class: "scroll" }, canvas));
  }

  const sign = (text) => el("span", { class: "sign", "aria-hidden": "true" }, text);

  // "value  what it is" lines of a sum, and its result.
  function sum(lines, result) {
    const body = lines.map(([value, text]) => el("tr", {}, el("td", {}, paint.number(value, 4)), el("th", { scope: "row" }, text)));
    const [total, name] = result;
    return el("table", { class: "sum" }, el("tbody", {}, body), el("tfoot", {}, el("tr", {}, el("td", {}, paint.number(total, 4)), el("th", { scope: "row" }, name))));
  }

  // Bars to the left and right of zero, one a row: [{name, value, title, pick, marked}].
  function bars(rows, bound = paint.largest(rows.map((row) => row.value))) {
    return el("ul", { class: "bars" }, rows.map(({ name, value, pick, marked }) => {
      const share = bound ? (50 * Math.abs(value)) / bound : 0;
      const bar = el("span", { class: "bar" }, el("span", { class: value < 0 ? "negative" : "positive", style: `width:${share}%;${value < 0 ? "right" : "left"}:50%` }));
      const label = pick ? el("button", { type: "button", class: "quiet", "aria-pressed": marked ? "true" : "false", onclick: pick }, name) : el("span", { class: "name" }, name);
      return el("li", { class: marked ? "marked" : null }, label, bar, el("span", { class: "value" }, paint.number(value)));
    }));
  }

  return { bars, matrix, pictureOf, sign, sum };
})();
