"""A thin skin: arguments → app → text. What a verb does not need is not imported.

main.py          which verb, and how errors end it           verbs/         a module for each verb
client.py        a client of our own gateway                 starting.py    a gateway's process, started
running.py       the gateway that runs in this realm         progress.py    progress of long work
officer.py       who sits at the command line
model_output.py  what is printed of a model              tenant_arguments.py  arguments for a tenant's terms
steps.py         how the steps of a verification are told     json_text.py     what --json prints
verify_lineage.py `verify --lineage`: a model back to its sources
gpu_trial.py     `seal test --gpu`: what came of a machine's GPUs
"""
