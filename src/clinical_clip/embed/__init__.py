"""Images to vectors: preprocessing, encoders, and the bulk run over a source."""
