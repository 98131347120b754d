"""Scoring of responses. Imports nothing here: verifier processes load parts of it and must start fast."""
