"""The gateway: clients of other protocols are edges and subscribers through it."""
