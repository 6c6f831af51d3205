"""What officers ask and change, behind the command line, HTTP and the console alike.

questions.py  what a policy would be asked about a request that nobody has sent
claims.py     claims, decided from the receipts' log
"""
