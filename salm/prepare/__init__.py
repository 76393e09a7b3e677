"""Public data sets in their own layouts -> dry-sound manifests and a bank of measured room responses.

Each reader opens and checks every file, and says of every entry that it leaves out which one and why (`Report`).
"""
