import assert from "node:assert/strict";
import { test } from "node:test";
import { Parser } from "../../../../gateway/pages/static/sse.js";

const STREAM =
  'retry: 1500\n\n: \n\nid: one\ndata: {"n":1}\n\ndata: {"n":2}\n\nid: three\ndata:{"n":\ndata: 3}\n\n';

test("messages are the same however the text is cut", () => {
  for (let size = 1; size < STREAM.length; size++) {
    const parser = new Parser();
    const found = [];
    for (let at = 0; at < STREAM.length; at += size) {
      found.push(...parser.push(STREAM.slice(at, at + size)));
    }
    assert.deepEqual(found, [{ n: 1 }, { n: 2 }, { n: 3 }]);
    assert.equal(parser.lastId, "three");
    assert.equal(parser.retry, 1500);
  }
});

test("all ends of lines count once, also where they are cut", () => {
  for (const end of ["\n", "\r\n", "\r"]) {
    const text = STREAM.replaceAll("\n", end);
    for (const size of [1, 2, 7, text.length]) {
      const parser = new Parser();
      const found = [];
      for (let at = 0; at < text.length; at += size) {
        found.push(...parser.push(text.slice(at, at + size)));
      }
      assert.deepEqual(found, [{ n: 1 }, { n: 2 }, { n: 3 }], JSON.stringify([end, size]));
    }
  }
});

test("an unfinished message is not used, and neither is its ID", () => {
  const parser = new Parser();
  parser.push('id: one\ndata: {"n":1}\n\nid: two\ndata: {"n"');
  parser.reset();
  assert.equal(parser.lastId, "one");
  assert.deepEqual(parser.push('id: two\ndata: {"n":2}\n\n'), [{ n: 2 }]);
  assert.equal(parser.lastId, "two");
});

test("a message without an ID leaves the last one", () => {
  const parser = new Parser();
  parser.push('id: one\ndata: {}\n\ndata: {}\n\n');
  assert.equal(parser.lastId, "one");
});
