"""JSON Schemas of clients: bounded, judged in a process of their own, enforced by the engine, checked afterwards."""
