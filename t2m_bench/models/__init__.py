"""The frozen encoders and decoder, the adapters and the losses."""
