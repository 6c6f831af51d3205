"""OpenAI's dialect: what it calls things, and nothing of what they mean."""
