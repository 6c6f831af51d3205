"""A thin skin: HTTP → app → HTTP. Run it with `python -m allod.web`; `allod up` does.

routes.py      the table of routes over one realm            http/         what all handlers share
openai/        OpenAI's dialect                              admin/        OpenAI's administration interface
governance.py  what the console's pages read                 evidence.py   evidence over HTTP
explanations.py why a request would be decided as it would   pages.py      the console   (static.py: its files)
server.py      one realm, served within limits               starting.py   the engine first, then what serves
fleet.py       replicas: what they do, and what is asked of them
"""
