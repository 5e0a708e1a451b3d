"""Speech providers: loading and choosing them, and one folder for each built-in one."""
