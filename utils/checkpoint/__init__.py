"""What a run leaves behind to go on from: file format, storage, and upstream's files."""
