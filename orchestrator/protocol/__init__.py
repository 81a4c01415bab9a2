"""What travels between the layers: envelopes, commands and replies, names and ids. Knows neither Temporal nor SQL."""
