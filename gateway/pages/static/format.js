// How numbers and times are written. Pure.

/** Seconds as `m:ss` or `h:mm:ss`. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** How long ago something was, in words. */
export function ago(milliseconds) {
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 10) return "now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} d ago`;
}

/** A short span of seconds, such as a latency. */
export function short(seconds) {
  if (seconds === undefined || seconds === null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}

/** A level. */
export function decibels(dbfs) {
  return Number.isFinite(dbfs) ? `${Math.round(dbfs)} dBFS` : "–";
}

/** Amounts by currency, such as `$0.0123`. */
export function money(amounts) {
  const parts = Object.entries(amounts ?? {}).filter(([, amount]) => amount > 0);
  return parts.map(([currency, amount]) => amountOf(currency, amount)).join(" + ");
}

function amountOf(currency, amount) {
  const digits = amount >= 1 ? 2 : 4;
  if (amount < 0.0001) return `<${amountOf(currency, 0.0001)}`;
  return currency === "USD"
    ? `$${amount.toFixed(digits)}`
    : `${amount.toFixed(digits)} ${currency}`;
}

/** The time of day, in the reader's own way of writing it. */
export function clock(milliseconds, seconds = true) {
  return new Date(milliseconds).toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
    ...(seconds ? { second: "2-digit" } : {}),
  });
}

/** A word of the contract, such as `handed_over`, for people. */
export function words(name) {
  return String(name ?? "").replaceAll("_", " ");
}
