"""The way of a request: who may, whose turn it is, what an engine is asked, and what is written about it.

gateway.py         the main path, in nine steps              recorder.py        its last: the receipt
controls.py        what decides, and whether it is current   allowance.py       what a tenant may still use
admission.py       turns, awaited                            fair_scheduler.py  turns, decided   (fair_queue.py)
execution.py       one accepted request at the engine        served_model.py    what clients are told of a model
router.py          which engine answers for a model          request.py         who asks, for what, labelled
tools.py           tool calls
schemas/           clients' schemas, judged in processes
"""
