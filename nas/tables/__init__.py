"""Tables of trained and measured architectures: which rows they have, their files, and their data card."""
