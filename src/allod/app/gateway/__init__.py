"""A gateway with everything it needs.

realm.py         put together                                open_realm.py   what lies on disks, opened and checked
engine.py        the engine that a realm runs                engine_seal.py  its process, started ahead
weights.py       which model file is served                  model_choice.py which model is meant
external.py      a model from somebody's server              open_store.py   the store of tenants
vllm.py          how vLLM is started on a folder
clock.py         what the clock is held against, accepted    meter.py        receipts, charged to the ledger
upkeep.py        keys, policy and ledger, kept current       receipts.py     the latest, read back
shares.py        who shares the engines
"""
