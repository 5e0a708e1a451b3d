import assert from "node:assert/strict";
import { test } from "node:test";
import { DEFAULTS, options, query } from "../../../../gateway/pages/static/overlay.js";

test("without options, all is the default", () => {
  assert.deepEqual(options(""), { ...DEFAULTS, problems: [] });
  assert.deepEqual(options("?lines=&size="), { ...DEFAULTS, problems: [] });
});

test("options are read", () => {
  const found = options("?fade=0&lines=2&size=64&font=Noto+Sans&speakers=colors&position=top-left");
  assert.deepEqual(found, { fade: 0, lines: 2, size: 64, font: "Noto Sans", show: "colors", only: [],
    position: "top-left", problems: [] });
});

test("a position may name one side alone, in any order", () => {
  assert.equal(options("?position=top").position, "top-center");
  assert.equal(options("?position=right").position, "bottom-right");
  assert.equal(options("?position=left-middle").position, "middle-left");
});

test("speakers choose who is shown, and how", () => {
  assert.deepEqual(options("?speakers=host,guest").only, ["host", "guest"]);
  const both = options("?speakers=none,host");
  assert.deepEqual([both.show, both.only], ["none", ["host"]]);
});

test("what cannot be used is the default, and is said", () => {
  const found = options('?size=1e9&lines=many&fade=-1&font=x";}&position=nowhere');
  assert.equal(found.problems.length, 5);
  assert.deepEqual({ ...found, problems: [] }, { ...DEFAULTS, problems: [] });
});

test("a query has what differs from the default, and is read back", () => {
  assert.equal(query(DEFAULTS), "");
  const chosen = { ...DEFAULTS, size: 30, font: "A B", show: "none", only: ["x"], fade: 0 };
  assert.deepEqual(options(query(chosen)), { ...chosen, problems: [] });
});
