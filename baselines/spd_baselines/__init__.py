"""What SPD has to be compared with: dense decoders, simple sparse ones, and the literal transcription of the paper."""
