"""The worker process: one model, one loop. The only importer of torch."""
