"""The AsyncAPI document and the JSON schemas that describe the contract for tools."""
