"""Data that workers report and operators read: roster, sessions, budgets, limits, usage."""
