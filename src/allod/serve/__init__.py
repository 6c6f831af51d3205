"""The way of a request: gateway, tools, engine port and its adapters."""
