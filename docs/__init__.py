"""The documentation: pages by kind, and the code that generates the reference."""
