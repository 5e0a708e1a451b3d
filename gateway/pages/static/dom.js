// Small helpers to build the page. Text only ever becomes text: nothing parses markup.

/** Makes an element: `make("p", { class: "note", hidden: true }, "text", child)`. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) set(element, key, value);
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** Makes an SVG element. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) set(element, key, value);
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** Sets an attribute; false and undefined remove it. */
export function set(element, key, value) {
  if (value === undefined || value === null || value === false) element.removeAttribute(key);
  else if (typeof value === "function") element.addEventListener(key, value);
  else element.setAttribute(key, value === true ? "" : String(value));
}

/** Sets the text of an element, if it is another one: an unchanged one disturbs no selection. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/**
 * Makes the children of `parent` those of `items`, in order, and keeps the elements of those that
 * stay. `create(item)` makes an element, `update(element, item)` brings it up to date.
 */
export function reconcile(parent, items, key, create, update) {
  const known = (parent.known ??= new Map());
  const wanted = new Set(items.map(key));
  for (const [name, element] of known) {
    if (!wanted.has(name)) {
      element.remove();
      known.delete(name);
    }
  }
  let next = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let element = known.get(name);
    if (element === undefined) {
      element = create(item);
      known.set(name, element);
    }
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
    update(element, item);
  }
}

/** Puts a space between the children of `parent`: outside of them, since each has a direction. */
export function space(parent) {
  for (const child of [...parent.children].slice(1)) {
    if (child.previousSibling.nodeType === Node.ELEMENT_NODE) child.before(" ");
  }
}

/** Copies text. Returns whether that worked. */
export async function copy(value) {
  try {
    await navigator.clipboard.writeText(value);
    return true;
  } catch {
    // Without HTTPS there is no clipboard but by this old way.
    const area = make("textarea", { class: "visually-hidden", "aria-hidden": true });
    area.value = value;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

/** Offers a file for saving. */
export function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const COLORS = 8;

/** The class that has the color of a speaker, by their number. */
export function colorOf(number) {
  return `speaker-${number % COLORS}`;
}
