"""What officers ask and change, behind the command line, HTTP and the console alike: what is done has one function
here, and what is shown one JSON form, the one that HTTP speaks.

tenants.py       tenants                            terms.py   the terms under which they use the engines
keys.py          their keys, and admin keys         limits.py  their limits per model
questions.py     what a policy would be asked about a request that nobody has sent
explanations.py  what it would decide, and why      claims.py  claims, decided from the receipts' log
"""
