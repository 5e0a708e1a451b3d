/** Any error of this package; its message says what is wrong and what cures it. */
export class NatterjackError extends Error {
  override name = "NatterjackError";
}

/** An argument or a setting is wrong. */
export class UsageError extends NatterjackError {
  override name = "UsageError";
}

/** The broker refuses the user, or something that the user may not do. */
export class NotAllowed extends NatterjackError {
  override name = "NotAllowed";
}
