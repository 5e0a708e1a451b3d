// The options of the overlay, from its address. Pure.

const SHOW = ["names", "colors", "none"];
const VERTICAL = ["top", "middle", "bottom"];
const HORIZONTAL = ["left", "center", "right"];

export const DEFAULTS = {
  fade: 8, lines: 3, size: 42, font: "", position: "bottom-center", show: "names", only: [],
};

/**
 * Reads `?fade=8&lines=3&size=42&font=Arial&speakers=names&position=bottom-center`. What cannot be
 * used is replaced by the default, and said in `problems`: an overlay never stays empty for that.
 */
export function options(search) {
  const query = new URLSearchParams(search);
  const problems = [];
  const number = (name, least, most) => {
    const text = query.get(name);
    if (text === null || text === "") return DEFAULTS[name];
    const value = Number(text);
    if (Number.isFinite(value) && value >= least && value <= most) return value;
    problems.push(`${name}: give a number from ${least} to ${most}`);
    return DEFAULTS[name];
  };
  const font = query.get("font") ?? DEFAULTS.font;
  const known = /^[\p{L}\p{N} ,_-]{0,100}$/u.test(font);
  if (!known) problems.push("font: give the name of a font");
  const { show, only } = speakers(query.get("speakers") ?? "");
  const place = position(query.get("position") ?? "");
  if (place === undefined) {
    problems.push(`position: give one of ${VERTICAL.join(", ")}, and of ${HORIZONTAL.join(", ")}`);
  }
  return {
    fade: number("fade", 0, 3600),
    lines: Math.round(number("lines", 1, 50)),
    size: number("size", 8, 400),
    font: known ? font : DEFAULTS.font,
    position: place ?? DEFAULTS.position,
    show,
    only,
    problems,
  };
}

/** `names`, `colors` or `none`, and the only speakers that are shown, separated by commas. */
function speakers(text) {
  const words = text.split(",").map((word) => word.trim()).filter((word) => word !== "");
  return {
    show: words.find((word) => SHOW.includes(word)) ?? DEFAULTS.show,
    only: words.filter((word) => !SHOW.includes(word)),
  };
}

function position(text) {
  const [defaultVertical, defaultHorizontal] = DEFAULTS.position.split("-");
  const words = text.split(/[\s-]+/).filter((word) => word !== "");
  if (words.some((word) => !VERTICAL.includes(word) && !HORIZONTAL.includes(word))) return undefined;
  const vertical = words.find((word) => VERTICAL.includes(word)) ?? defaultVertical;
  const horizontal = words.find((word) => HORIZONTAL.includes(word)) ?? defaultHorizontal;
  return `${vertical}-${horizontal}`;
}

/** The query for some options, without those that are the default. */
export function query(values) {
  const made = new URLSearchParams();
  for (const name of ["fade", "lines", "size", "font", "position"]) {
    if (String(values[name]) !== String(DEFAULTS[name])) made.set(name, String(values[name]));
  }
  const speakers = [values.show === DEFAULTS.show ? "" : values.show, ...values.only];
  const list = speakers.filter((word) => word !== "").join(",");
  if (list !== "") made.set("speakers", list);
  const text = made.toString();
  return text === "" ? "" : `?${text}`;
}
