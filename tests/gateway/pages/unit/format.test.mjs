import assert from "node:assert/strict";
import { test } from "node:test";
import { ago, duration, money, short, words } from "../../../../gateway/pages/static/format.js";

test("durations", () => {
  assert.equal(duration(0), "0:00");
  assert.equal(duration(59.9), "0:59");
  assert.equal(duration(3661), "1:01:01");
  assert.equal(duration(-5), "0:00");
});

test("short spans", () => {
  assert.equal(short(undefined), "–");
  assert.equal(short(0.042), "42 ms");
  assert.equal(short(1.25), "1.3 s");
  assert.equal(short(42.4), "42 s");
});

test("how long ago", () => {
  assert.equal(ago(2000), "now");
  assert.equal(ago(42_000), "42 s ago");
  assert.equal(ago(90 * 60_000), "2 h ago");
});

test("amounts", () => {
  assert.equal(money({}), "");
  assert.equal(money(undefined), "");
  assert.equal(money({ USD: 0.01234 }), "$0.0123");
  assert.equal(money({ USD: 12.345, EUR: 0.5 }), "$12.35 + 0.5000 EUR");
  assert.equal(money({ USD: 0.00001 }), "<$0.0001");
});

test("words of the contract", () => {
  assert.equal(words("handed_over"), "handed over");
  assert.equal(words(undefined), "");
});
