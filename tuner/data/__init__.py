"""From files to micro-batches: sources, scan, captions, pictures, buckets, cache, order, batches."""
