"""The escapes: each a few lines that try to get out, judged by the honeypot's or the victim's record alone."""
