"""The wire: bytes in, requests out, outcomes to bytes. Digits and status words live here and nowhere else."""
