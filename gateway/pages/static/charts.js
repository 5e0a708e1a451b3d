// The shapes of charts. Pure: numbers in, numbers and SVG path data out.

/** A round number not below `value`, for the top of an axis. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/**
 * The points of a series in a box of `width` and `height`; null where there is no value. `top` is
 * the value at the upper edge.
 */
export function points(values, width, height, top) {
  const step = width / Math.max(1, values.length - 1);
  return values.map((value, index) =>
    value === null || value === undefined
      ? null
      : [round(index * step), round(height - (Math.min(value, top) / top) * height)],
  );
}

/** The values, with those between two neighbors that are at most `most` apart filled in. */
export function bridged(values, most) {
  const filled = [...values];
  let last = -1;
  for (const [index, value] of values.entries()) {
    if (value === null || value === undefined) continue;
    if (last >= 0 && index - last <= most) {
      for (let between = last + 1; between < index; between++) {
        const share = (between - last) / (index - last);
        filled[between] = values[last] + (value - values[last]) * share;
      }
    }
    last = index;
  }
  return filled;
}

/** The path of a line through points, with a break wherever there is none. */
export function line(found) {
  let path = "";
  let pen = "M";
  for (const [index, point] of found.entries()) {
    if (point === null) {
      pen = "M";
      continue;
    }
    path += `${pen}${point[0]} ${point[1]}`;
    const alone = pen === "M" && (found[index + 1] ?? null) === null;
    if (alone) path += `h0.01`; // a point alone is a dot
    pen = "L";
  }
  return path;
}

/** The path of the area under points. */
export function area(found, height) {
  let path = "";
  let run = [];
  for (const point of [...found, null]) {
    if (point !== null) {
      run.push(point);
    } else if (run.length > 0) {
      path += `M${run[0][0]} ${height}`;
      for (const [x, y] of run) path += `L${x} ${y}`;
      path += `L${run.at(-1)[0]} ${height}Z`;
      run = [];
    }
  }
  return path;
}

const round = (number) => Math.round(number * 10) / 10;
