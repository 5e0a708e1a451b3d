const SPACE = /\s*[^\S\u00a0\u2007\u202f]\s*/g; // at which a line may be broken
const REMOVED = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/gu;
// Chinese, Japanese, Thai, Lao, Burmese, Khmer and their punctuation put no spaces between words.
const UNSPACED =
  /[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u3190-\u31ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff60\u{20000}-\u{3ffff}]/u;

/** Returns the text on one line, without control characters. */
export function clean(text: string): string {
  return text.replace(REMOVED, " ").replace(SPACE, " ").trim();
}

/** Returns texts that follow one another, as one. */
export function join(texts: string[]): string {
  let joined = "";
  for (const text of texts.filter((one) => one !== "")) {
    const before = [...joined.slice(-2)].at(-1) ?? "";
    const [after = ""] = text;
    const space = before !== "" && !UNSPACED.test(before) && !UNSPACED.test(after);
    joined += (space ? " " : "") + text;
  }
  return joined;
}
