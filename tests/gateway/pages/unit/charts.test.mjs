import assert from "node:assert/strict";
import { test } from "node:test";
import { area, bridged, ceiling, line, points } from "../../../../gateway/pages/static/charts.js";

test("the top of an axis is a round number", () => {
  assert.equal(ceiling(0), 1);
  assert.equal(ceiling(3), 5);
  assert.equal(ceiling(10), 10);
  assert.equal(ceiling(0.3), 0.5);
  assert.equal(ceiling(1234), 2000);
});

test("points fill the box", () => {
  assert.deepEqual(points([0, 5, null, 10], 90, 100, 10), [[0, 100], [30, 50], null, [90, 0]]);
  assert.deepEqual(points([20], 90, 100, 10), [[0, 0]]);
});

test("a line has a break where there is no value, and a value alone is a dot", () => {
  assert.equal(line([[0, 1], [2, 3], null, [4, 5]]), "M0 1L2 3M4 5h0.01");
  assert.equal(line([null, null]), "");
});

test("an area is closed at the bottom", () => {
  assert.equal(area([[0, 1], [2, 3], null], 9), "M0 9L0 1L2 3L2 9Z");
});

test("short stretches without a value are bridged, long ones and the ends are not", () => {
  assert.deepEqual(bridged([null, 1, null, 3, null, null, null, 5, null], 2),
    [null, 1, 2, 3, null, null, null, 5, null]);
});
