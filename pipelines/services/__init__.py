"""What a deployment needs before its first run: a bucket, a store that keeps promises, secrets."""
