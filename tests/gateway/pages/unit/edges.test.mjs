import assert from "node:assert/strict";
import { test } from "node:test";
import {
  concern, place, sorted, summary,
} from "../../../../gateway/pages/static/edges-view.js";
import { decibels } from "../../../../gateway/pages/static/format.js";

const edge = (agent, state, ...sources) => ({ agent, state, sources });
const source = (state, ...findings) => ({ state, findings });

test("levels", () => {
  assert.equal(place(0), 1);
  assert.equal(place(20), 1);
  assert.equal(place(-30), 0.5);
  assert.equal(place(-200), 0);
  assert.equal(decibels(-12.4), "-12 dBFS");
  assert.equal(decibels(-0.2), "0 dBFS");
  assert.equal(decibels(undefined), "–");
  assert.equal(decibels(null), "–");
});

test("what somebody should look at", () => {
  assert.equal(concern(edge("a", "running", source("capturing"))), "");
  assert.equal(concern(edge("a", "running")), "");
  assert.equal(concern(edge("a", "running", source("capturing"), source("muted"))), "attention");
  assert.equal(concern(edge("a", "running", source("capturing", "input_dead"))), "attention");
  assert.equal(concern(edge("a", "running", source("muted"), source("failed"))), "bad");
  assert.equal(concern(edge("a", "absent", source("capturing"))), "bad");
  assert.equal(concern(edge("a", "stopped", source("failed"))), "");
});

test("edges that need somebody come first, and stopped ones last", () => {
  const edges = [
    edge("d", "stopped"), edge("c", "running"), edge("b", "running"),
    edge("z", "absent"), edge("y", "running", source("waiting")),
  ];
  assert.deepEqual(sorted(edges).map((each) => each.agent), ["z", "y", "b", "c", "d"]);
  assert.equal(edges[0].agent, "d");
  assert.equal(summary(edges),
    "3 running  ·  1 absent  ·  1 with findings or problems  ·  1 stopped");
  assert.equal(summary([]), "");
});
