"""What is told of a model that was made here.

passport.py  what it declares about itself                   facts.py     what its documents are made from
records.py   what is kept of its stages                      released.py  a release, as it is read again
bom.py       bill of materials (CycloneDX)                   summary.py   the public summary of its content
licences.py  what its licences ask for together
"""
