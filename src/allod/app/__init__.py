"""The composition root: the only place where real things are built, and where the rooms meet.

home.py          the realm's directory and its settings      listening.py  the socket that clients connect to
gateway/         one gateway with everything it needs        training/   from a recipe to a release
artefacts/       what the artefacts log says is in force     administration/  what officers ask and change
tuning/          which settings suit this machine
"""
