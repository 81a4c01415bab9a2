"""The data that layers exchange: envelopes, commands and replies, names and ids. It uses neither Temporal nor SQL."""
