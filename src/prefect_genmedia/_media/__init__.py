"""Files of media: verifying what they are, staging downloads, and the storages they are published to."""
