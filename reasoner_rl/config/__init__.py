"""The configuration: frozen pydantic models, YAML recipes, `key.path=value` overrides. Imports no torch."""
